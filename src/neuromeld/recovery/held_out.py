"""The loss on the validation split, before and after."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel

from neuromeld.data.calibration import Calibration
from neuromeld.data.text import TokenWindows
from neuromeld.errors import NumericsError
from neuromeld.evaluation import Perplexity, mean_loss, perplexity
from neuromeld.modalities import Modality
from neuromeld.modalities.tokens import Tokens
from neuromeld.model.passes import PassFormat, current_passes, passes_in

HELD_OUT_TOKENS = 8192
"""Validation tokens that the loss is measured on, at most."""


@dataclass(frozen=True)
class HeldOut:
    """`nll` is the mean over all predictions, in nats."""

    nll: float
    protocol: dict[str, str | int]


Measure = Callable[[PreTrainedModel], HeldOut | Perplexity]


def held_out_loss(reader: Modality, data: Calibration, processor: Any, config: PretrainedConfig) -> Measure:
    """Measure a model on part of the validation split: of language models, the perplexity."""
    if isinstance(reader, Tokens):
        return perplexity_on(reader.texts(data, processor).validation(HELD_OUT_TOKENS))
    examples = reader.validation(data, processor, config, HELD_OUT_TOKENS)

    def measure(model: PreTrainedModel) -> HeldOut:
        loss = mean_loss(model, examples.batches)
        if not math.isfinite(loss):
            raise NumericsError(
                f"the loss on the validation split of {examples.source} is not finite: the model's weights or logits "
                "hold NaN or infinity; nothing was written. Where it was finite before training, pass a lower "
                "--learning-rate"
            )
        protocol = {"source": examples.source, "split": examples.split, "sha256": examples.sha256}
        protocol |= {
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
            "passes": current_passes(),
        }
        return HeldOut(loss, protocol | {"tokens": examples.num_tokens})

    return measure


def perplexity_on(windows: TokenWindows) -> Measure:
    """Measure the perplexity on these windows."""
    return lambda model: perplexity(model, windows)


def by_passes(measure: Measure, passes: PassFormat) -> Measure:
    """Measure by passes of some format."""

    def measure_so(model: PreTrainedModel) -> HeldOut | Perplexity:
        with passes_in(passes, model):
            return measure(model)

    return measure_so
