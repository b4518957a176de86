"""Text for calibration and evaluation: named sources, split by document and cut into token windows."""

from neuromeld.data.sources import PAIR_SOURCES, TEXT_SOURCES
from neuromeld.data.splits import Document, Split
from neuromeld.data.text.masking import MASKED_RATIO, in_frames, mask_tokens
from neuromeld.data.text.pairs import Pair, text_pairs
from neuromeld.data.text.respell import respelled, respelled_batch
from neuromeld.data.text.speech import Clip, read_audio, speech_clips, speech_features
from neuromeld.data.text.windows import (
    TokenWindows,
    check_vocabulary,
    encode_texts,
    first_windows,
    read_documents,
    spread_windows,
    token_windows,
    with_digest,
)

__all__ = [
    "MASKED_RATIO",
    "PAIR_SOURCES",
    "TEXT_SOURCES",
    "Clip",
    "Document",
    "Pair",
    "Split",
    "TokenWindows",
    "check_vocabulary",
    "encode_texts",
    "first_windows",
    "in_frames",
    "mask_tokens",
    "read_audio",
    "read_documents",
    "respelled",
    "respelled_batch",
    "speech_clips",
    "speech_features",
    "spread_windows",
    "text_pairs",
    "token_windows",
    "with_digest",
]
