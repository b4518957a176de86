"""Inputs and labels of a decoder: the same tokens, one place apart."""

import hashlib
import math
from collections.abc import Iterable, Sequence

import torch
from transformers import PretrainedConfig

from neuromeld.errors import NumericsError, UserInputError
from neuromeld.evaluation import Generated
from neuromeld.modalities.modality import EvaluationData, Measured
from neuromeld.model.capture import IGNORED, Batch
from neuromeld.stats.split import HELD_OUT

MOST_IN_BATCH = 8
"""Examples in one calibration batch, at most."""

CONTEXT = 512
"""Source and target tokens that operations are counted at."""


def decoder_entries(targets: Sequence[Sequence[int]], config: PretrainedConfig) -> dict[str, torch.Tensor]:
    """Return the decoder's part of a batch, int64 `(examples, longest)`, padded on the right.

    targets  token ids of each, with the tokens that the tokenizer ends a target with

    The decoder starts with the config's start token, unless the tokenizer has put that there.
    """
    start = config.decoder_start_token_id
    sequences = [list(ids) if list(ids[:1]) == [start] else [start, *ids] for ids in targets]
    largest = max(max(sequence) for sequence in sequences)
    apart = getattr(config, "share_encoder_decoder_embeddings", True) is False
    rows = config.decoder_vocab_size if apart else config.vocab_size
    if largest >= rows:
        raise UserInputError(
            f"the tokenizer produced the token id {largest}, but the model's vocabulary ends at "
            f"{rows - 1}: the tokenizer is not the model's own; pass the one that was saved with it"
        )
    padding = config.pad_token_id or 0
    return {
        "decoder_input_ids": padded([sequence[:-1] for sequence in sequences], padding),
        "decoder_attention_mask": padded([[1] * (len(sequence) - 1) for sequence in sequences], 0),
        "labels": padded([sequence[1:] for sequence in sequences], IGNORED),
    }


def padded(sequences: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """Return the sequences as one matrix, int64, with `value` after the end of the shorter ones."""
    rows = [torch.tensor(sequence, dtype=torch.int64) for sequence in sequences]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


def batch_size(num_examples: int) -> int:
    """Such that there are at least eight batches where there are as many examples."""
    return min(MOST_IN_BATCH, max(1, num_examples // HELD_OUT))


def sha256_of(batches: Iterable[Batch]) -> str:
    """Return the sha256 of all values, little-endian, in order."""
    digest = hashlib.sha256()
    for batch in batches:
        for value in batch.values():
            digest.update(value.numpy().astype("<f4" if value.is_floating_point() else "<i8").tobytes())
    return digest.hexdigest()


def measured_targets(found: Generated, loss: float, data: EvaluationData) -> Measured:
    """Return the scores of what a model generated, and its loss on the targets, as what was measured.

    `NumericsError` where the loss is not finite.
    """
    if not math.isfinite(loss):
        raise NumericsError(
            f"the loss on {data.source} is not finite: the model's weights or logits hold NaN or infinity; in float16 "
            "this is usually overflow: evaluate in bfloat16 or float32"
        )
    protocol = {"source": data.source, "split": data.split, "context": CONTEXT} | found.protocol
    return Measured({**found.scores, "loss": loss}, CONTEXT, {"protocol": protocol})
