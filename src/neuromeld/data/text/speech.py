"""Speech with transcripts: a folder of `.wav` files and `transcripts.tsv`, a line `NAME.wav<TAB>text` for each."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor
from transformers import PretrainedConfig

from neuromeld.data.listed import listed_files
from neuromeld.data.splits import Split
from neuromeld.errors import CheckpointError, UserInputError, naming_failure

if TYPE_CHECKING:
    from transformers import ProcessorMixin

TRANSCRIPTS = "transcripts.tsv"

RATES = (1_000, 1_000_000)
"""Samples a second that a recording may have; the filter between two rates is as long as the larger."""

MOST_SAMPLES = 10**8
"""Of one recording, as it is padded."""

LOUDEST = 1e6
"""Of a file of floating-point numbers, where 1 is full scale."""


@dataclass(frozen=True)
class Clip:
    """One recording and its transcript."""

    path: Path
    transcript: str


def speech_clips(source: str, split: Split | None) -> list[Clip]:
    """Return the recordings of one split of `file:FOLDER`, or all for None, in the order of the transcripts.

    Which split a recording falls to depends on its name and transcript alone.  Raises `UserInputError` for a folder or
    a line that cannot be read.
    """
    needed = (
        f"speech: give file:FOLDER, a folder with .wav files and {TRANSCRIPTS}, in which every line is NAME.wav, a tab "
        "and the transcript"
    )
    return [Clip(found.path, found.text) for found in listed_files(source, split, TRANSCRIPTS, needed)]


def read_audio(clips: Sequence[Clip], rate: int) -> list[Float32[np.ndarray, " samples"]]:
    """Return the recordings as one channel of samples between -1 and 1, `rate` of them a second."""
    return [_read_wav(clip.path, rate) for clip in clips]


def speech_features(clips: Sequence[Clip], processor: "ProcessorMixin", config: PretrainedConfig) -> Tensor:
    """Return what a model hears of recordings, `(clip, mel bin, frame)` in float32, as its feature extractor makes it.

    Raises `CheckpointError` where the extractor is damaged, or another model's.
    """
    extractor = processor.feature_extractor
    expected = (config.num_mel_bins, 2 * config.max_source_positions)
    with naming_failure("the feature extractor that lies beside the model fails"):
        rate, samples = extractor.sampling_rate, extractor.n_samples
        if not (RATES[0] <= rate <= RATES[1] and 0 < samples <= MOST_SAMPLES):
            raise ValueError(f"it takes {samples} samples, {rate} a second")
        found = extractor(read_audio(clips, rate), sampling_rate=rate, return_tensors="pt")["input_features"]
    if found.shape[1:] != expected:
        raise CheckpointError(
            f"the feature extractor that lies beside the model makes {tuple(found.shape[1:])} numbers of a recording, "
            f"and the model takes {expected}: it is another model's, or damaged"
        )
    features: Tensor = found.to(torch.float32)
    return features


def _read_wav(path: Path, rate: int) -> Float32[np.ndarray, " samples"]:
    from scipy.io import wavfile  # here, since scipy.signal takes as long to import as numpy and the rest together
    from scipy.signal import resample_poly

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # pieces that hold no sound
            warnings.filterwarnings("error", "Reached EOF")
            own_rate, samples = wavfile.read(path)
    except Exception as error:  # the reader checks little: struct, name, memory and division errors, and its warning
        reason = error if isinstance(error, OSError | ValueError | wavfile.WavFileWarning) else "it is damaged"
        raise UserInputError(f"{path} cannot be read as a .wav file: {reason}") from error
    if not RATES[0] <= own_rate <= RATES[1]:
        raise UserInputError(
            f"{path} says that it has {own_rate:,} samples a second, outside {RATES[0]:,} to {RATES[1]:,}"
        )
    audio = samples.astype(np.float64)
    if samples.dtype == np.uint8:
        audio = (audio - 128) / 128
    elif np.issubdtype(samples.dtype, np.integer):
        audio /= -float(np.iinfo(samples.dtype).min)
    if not audio.size or not (np.abs(audio) < LOUDEST).all():
        raise UserInputError(
            f"{path} has {'NaN or values beyond all sound' if audio.size else 'no samples'}; leave it out"
        )
    if audio.ndim == 2:
        audio = audio.mean(axis=1)
    if own_rate != rate:
        common = gcd(own_rate, rate)
        audio = resample_poly(audio, rate // common, own_rate // common)
    result: Float32[np.ndarray, " samples"] = audio.astype(np.float32)
    return result
