"""Speech with transcripts: a folder of `.wav` files and `transcripts.tsv`, a line `NAME.wav<TAB>text` for each."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from scipy.io import wavfile
from scipy.signal import resample_poly

from neuromeld.data.splits import Document, Split, select_split
from neuromeld.errors import UserInputError

TRANSCRIPTS = "transcripts.tsv"


@dataclass(frozen=True)
class Clip:
    """One recording and what is said in it."""

    path: Path
    transcript: str


def speech_clips(source: str, split: Split | None) -> list[Clip]:
    """The recordings of one split of `file:FOLDER`, or all for None, in the order of the transcripts.

    Which split a recording falls to depends on its name and transcript alone.  Raises `UserInputError` for a folder or
    a line that cannot be read.
    """
    folder = Path(source.removeprefix("file:"))
    path = folder / TRANSCRIPTS
    if not source.startswith("file:") or not path.is_file():
        raise UserInputError(
            f"{source} is not speech: give file:FOLDER, a folder with .wav files and {TRANSCRIPTS}, in which every "
            "line is NAME.wav, a tab and what is said"
        )
    documents = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        name, tab, transcript = line.partition("\t")
        if not tab or not (folder / name).is_file():
            reason = f"{folder / name} is not there" if tab else "there is no tab"
            raise UserInputError(f"{path}, line {number}: {reason}; a line is NAME.wav, a tab and what is said")
        documents.append(Document(name, transcript))
    chosen = documents if split is None else select_split(documents, split, source=str(folder))
    return [Clip(folder / document.name, document.text) for document in chosen]


def read_audio(clips: Sequence[Clip], rate: int) -> list[Float32[np.ndarray, " samples"]]:
    """The recordings as one channel of samples between -1 and 1, `rate` of them a second."""
    return [_read_wav(clip.path, rate) for clip in clips]


def _read_wav(path: Path, rate: int) -> Float32[np.ndarray, " samples"]:
    try:
        own_rate, samples = wavfile.read(path)
    except (OSError, ValueError) as error:
        raise UserInputError(f"{path} cannot be read as a .wav file: {error}") from error
    audio = samples.astype(np.float64)
    if samples.dtype == np.uint8:
        audio = (audio - 128) / 128
    elif np.issubdtype(samples.dtype, np.integer):
        audio /= -float(np.iinfo(samples.dtype).min)
    if audio.ndim == 2:
        audio = audio.mean(axis=1)
    if own_rate != rate:
        common = gcd(own_rate, rate)
        audio = resample_poly(audio, rate // common, own_rate // common)
    result: Float32[np.ndarray, " samples"] = audio.astype(np.float32)
    return result
