"""Everything that decides what a recovery does, validated at once, frozen, and kept with the result."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator

from neuromeld.data.calibration import Calibration
from neuromeld.data.sources import unknown_source
from neuromeld.errors import UserInputError
from neuromeld.modalities import TrainingSet
from neuromeld.model.capture import Batch
from neuromeld.model.passes import PassFormat
from neuromeld.planning.recipe import read_yaml
from neuromeld.recovery.four_bit import FourBit
from neuromeld.recovery.held_out import Measure
from neuromeld.registry import Registry, unknown_name
from neuromeld.runtime.distributed import num_ranks
from neuromeld.runtime.journal import NO_JOURNAL, Journal
from neuromeld.settings import MOST, Seed, Settings, validate

_LEAST = {
    **dict.fromkeys(("steps", "tokens", "layerwise_tokens", "batch_size", "accumulate", "lora_rank"), 1),
    **{"seqlen": 2, "warmup": 0, "patience": 1},
}

ANY_NUMBER = 1 << 30
"""Of updates, where nothing bounds it."""

LENGTHS = ("steps", "tokens", "minutes")
"""Ways to say how long to train; exactly one of them, or none where only layers are trained."""

TEACHERS_OWN = ("train", "original", "seqlen")
"""What a teacher on the disk says itself."""


class Recovery(Settings):
    """Train with AdamW, without weight decay."""

    train: str | None = Field(
        None,
        description="Named data or file:PATH to train on (its calibration split); by default the usual for the model.",
    )
    steps: int | None = Field(
        None, description="Updates in all; data that is too short for them is read again, in another order."
    )
    tokens: int | None = Field(None, description="Tokens to train on in all, in the place of steps.")
    minutes: float | None = Field(
        None, description="Minutes to train for, in the place of steps: as many as fit, by the time of the first ones."
    )
    layerwise_tokens: int | None = Field(
        None,
        description="Tokens on which layers are trained first, one at a time, to write what the original's write.",
    )
    layerwise_rate: float = Field(3e-4, description="Peak learning rate of that.")
    only: Literal["norms", "embeddings"] | None = Field(
        None, description="Train norms and biases alone, or embeddings and the output head; by default everything."
    )
    batch_tokens: int = Field(2048, description="Tokens of one update, a multiple of seqlen; of images, positions.")
    batch_size: int | None = Field(None, description="Examples of one update, in the place of tokens.")
    accumulate: int = Field(1, description="Gradient-accumulation steps.")
    seqlen: int = Field(512, description="Tokens in one window of text.")
    learning_rate: float = Field(5e-5, description="Peak learning rate.")
    schedule: Literal["inverse_sqrt", "linear", "cosine", "constant"] = Field(
        "inverse_sqrt",
        description="Decay of the learning rate after warm-up: inverse_sqrt, linear, cosine or constant.",
    )
    warmup: int | float = Field(0, description="Warm-up steps; below 1 a share of all steps.")
    rates: tuple[float, ...] | None = Field(
        None,
        description="Learning rates to try first, each on a tenth of the updates from the same start: the best by "
        "held-out loss takes the place of learning_rate. With commas between: 1e-4,3e-4,1e-3.",
    )
    patience: int = Field(
        4,
        description="Looks at held-out data, of which there are up to ten, without a lower loss before the training "
        "stops; the best weights are kept in any case.",
    )
    decay_steps: int | None = Field(None, description="Steps of the linear decay; by default all of them.")
    final_learning_rate: float = Field(0.0, description="Learning rate that the linear decay ends at.")
    clip: float = Field(1.0, description="Largest norm of the gradient.")
    lora_rank: int | None = Field(
        None, description="Rank of low-rank updates, merged at the end; without one every parameter is trained."
    )
    base_bits: Literal[4] | None = Field(
        None, description="Bits that the layers' matrices are held in while low-rank updates are trained."
    )
    original: str | None = Field(
        None,
        description="The model that was compressed, whose predictions are followed: loss = (1 - w) cross-entropy + "
        "w T^2 KL.",
        json_schema_extra={"flag": "--from"},
    )
    teacher: str | None = Field(
        None,
        description="A folder that `neuromeld teach` wrote, in the place of the original and of the text: its "
        "predictions are followed on its text, and the original is not loaded.",
    )
    distill_weight: float = Field(0.5, description="Share w of the distillation in the loss.")
    temperature: float = Field(1.0, description="Distillation temperature T.")
    shard: bool = Field(
        False,
        description="Of several processes, let each hold a part of every layer: weights, gradients and moments (FSDP).",
    )
    bf16: bool | None = Field(None, description="Compute in bfloat16 by autocast; by default where the device has it.")
    seed: Seed = Field(0, description="Seed for sampling data, dropout and low-rank matrices.")

    @property
    def data(self) -> Calibration:
        """The request for training data, of as many tokens as are read; of any number, where a time decides it."""
        update = self.batch_tokens if self.batch_size is None else self.batch_size * self.seqlen
        tokens = self.tokens or update * (self.steps or (ANY_NUMBER if self.minutes else 1))
        return Calibration(source=self.train, tokens=min(max(tokens, update), MOST), seqlen=self.seqlen, seed=self.seed)

    @property
    def layerwise_data(self) -> Calibration:
        """The request for the data that layers are trained on."""
        return self.data.model_copy(update={"tokens": self.layerwise_tokens})

    @property
    def warmup_steps(self) -> int:
        """Updates of the warm-up, of `steps` in all."""
        return int(self.warmup) if self.warmup >= 1 else round(self.warmup * (self.steps or 0))

    def batch_examples(self, pool: TrainingSet) -> int:
        """Return the number of examples of one update, by their mean length where `batch_size` does not say.

        `UserInputError` where not one fits, and where they are not so many equal parts as `accumulate` says.
        """
        found = self.batch_size or self.batch_tokens * pool.num_examples // pool.num_tokens
        if not found:
            raise UserInputError(
                f"batch_tokens={self.batch_tokens} is less than one example of {pool.source}, which has "
                f"{pool.num_tokens / pool.num_examples:.0f} tokens on average; raise it"
            )
        if found > pool.num_examples:
            raise UserInputError(
                f"an update of {found} examples is more than the {pool.num_examples} of {pool.source}; lower "
                f"{'batch_size' if self.batch_size else 'batch_tokens'}"
            )
        if found % (self.accumulate * num_ranks()):
            processes = f" in {num_ranks()} processes" if num_ranks() > 1 else ""
            raise UserInputError(
                f"accumulate={self.accumulate}{processes} must divide the {found} examples of an update evenly"
            )
        return found

    def of_steps(self, steps: int) -> "Recovery":
        """Return the same settings with a length in updates; `UserInputError` where they leave no time to train."""
        stated = self.model_dump(exclude_unset=True, exclude={"tokens", "minutes"})
        return parse_recovery(stated | {"steps": steps})

    def stated(self) -> dict[str, Any]:
        """Return the settings that take part, as plain values."""
        unused = set() if self.original or self.teacher else {"distill_weight", "temperature"}
        unused |= set() if self.layerwise_tokens else {"layerwise_rate"}
        unused |= {"batch_tokens"} if self.batch_size else set()
        unused |= {
            name
            for name in ("accumulate", "final_learning_rate", "patience", "shard")
            if name not in self.model_fields_set
        }
        return self.model_dump(exclude_none=True, exclude=unused)

    @model_validator(mode="after")
    def _consistent(self) -> "Recovery":
        problems = [
            f"{name}={getattr(self, name)} must be at least {least}"
            for name, least in _LEAST.items()
            if getattr(self, name) is not None and getattr(self, name) < least
        ]
        problems += [
            f"{name}={getattr(self, name)} must be positive"
            for name in ("learning_rate", "layerwise_rate", "clip", "temperature", "minutes")
            if getattr(self, name) is not None and not 0 < getattr(self, name) < float("inf")
        ]
        problems += [f"rates={rate:g} must be positive" for rate in self.rates or () if rate <= 0]
        problems += self._length_problems()
        problems += unknown_source(self.train) if self.train is not None else []
        if self.batch_size is not None and "batch_tokens" in self.model_fields_set:
            problems.append(f"batch_size={self.batch_size} and batch_tokens={self.batch_tokens}: give one of them")
        if self.schedule != "linear" and (self.decay_steps is not None or self.final_learning_rate):
            problems.append(f"schedule={self.schedule} has no decay_steps or final_learning_rate; linear has")
        if not 0 <= self.final_learning_rate <= self.learning_rate:
            problems.append(f"final_learning_rate={self.final_learning_rate} is outside [0, learning_rate]")
        if self.decay_steps is not None and not self.warmup_steps < self.decay_steps <= (self.steps or MOST):
            problems.append(
                f"decay_steps={self.decay_steps} is not above warmup={self.warmup} and at most steps={self.steps}"
            )
        windows = self.batch_size is None and self.teacher is None and self.seqlen > 1
        if windows and (self.batch_tokens < self.seqlen or self.batch_tokens % self.seqlen):
            problems.append(f"batch_tokens={self.batch_tokens} must be a multiple of seqlen={self.seqlen}")
        if self.warmup >= 1 and self.warmup % 1:
            problems.append(f"warmup={self.warmup} is no whole number of steps, and no share below 1")
        if self.warmup and self.steps is not None and self.warmup_steps >= self.steps:
            problems.append(f"warmup={self.warmup} leaves none of steps={self.steps} to train at full rate")
        if not 0 < self.distill_weight <= 1:
            problems.append(f"distill_weight={self.distill_weight} is outside (0, 1]; 1 is distillation alone")
        if self.base_bits and self.lora_rank is None:
            problems.append("base_bits is for low-rank updates; set lora_rank, or remove it")
        if self.base_bits and self.layerwise_tokens:
            problems.append("base_bits reads the matrices again, so layers cannot be trained before; give one of them")
        if self.only is not None and self.lora_rank is not None:
            problems.append(
                f"only={self.only} and lora_rank={self.lora_rank}: low-rank updates are of matrices; give one"
            )
        if self.shard and (self.lora_rank is not None or self.layerwise_tokens is not None):
            problems.append("shard trains all of every layer: leave lora_rank and layerwise_tokens out")
        if self.layerwise_tokens is not None and self.original is None:
            problems.append("layerwise_tokens is for layers that follow the original's: name it by original (--from)")
        if self.teacher is not None:
            given = {*TEACHERS_OWN, "layerwise_tokens"} & self.model_fields_set
            given |= {"temperature"} if self.temperature != 1 else set()
            problems += [f"{name} and teacher: the teacher has its own, so give one of them" for name in sorted(given)]
        alone = sorted({"distill_weight", "temperature"} & self.model_fields_set)
        if alone and self.original is None and self.teacher is None:
            problems.append(f"{' and '.join(alone)}: there is no original; name the original model, or remove this")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _length_problems(self) -> list[str]:
        given = [f"{name}={getattr(self, name)}" for name in LENGTHS if getattr(self, name) is not None]
        if len(given) > 1:
            return [f"{' and '.join(given)}: give one of them"]
        if not given and self.layerwise_tokens is None:
            return ["say how long to train: steps, tokens or minutes"]
        return []


@dataclass(frozen=True)
class Job:
    """Settings, and what this machine and this call add to them.

    measure      on held-out data; `loss_before` is what it gives of the model as it comes
    journal      of the whole job
    base         set with `settings.base_bits`
    by_layer     what layers are trained on, with `settings.layerwise_tokens`
    dropped      layers of the original that are gone, counted from 0 in every stack
    """

    settings: Recovery
    passes: PassFormat
    device: torch.device
    measure: Measure
    loss_before: float
    journal: Journal = NO_JOURNAL
    base: FourBit | None = None
    by_layer: Sequence[Batch] = ()
    dropped: Sequence[int] = ()


_SHIPPED = Path(__file__).parent / "recipes"
RECOVERY_RECIPES: Registry[Path] = Registry(
    "recovery recipe", {path.stem: path for path in sorted(_SHIPPED.glob("*.yaml"))}
)
"""The recovery recipes that come with the package, by name."""


def parse_recovery(data: Any) -> Recovery:
    """Validate settings given as a mapping; every mistake is reported at once, as one `UserInputError`."""
    return validate(Recovery, data)


def load_recovery(name_or_path: str) -> Recovery:
    """Settings by the name they ship under, or from a YAML file."""
    return parse_recovery(read_yaml(name_or_path, RECOVERY_RECIPES))


FOLLOWING = "distil"
"""The recipe that follows the original's predictions, which a length is given to."""

_MINUTES = {"s": 1 / 60, "min": 1.0, "m": 1.0, "h": 60.0}
_TOKENS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}


def recovery_of(length: str, original: str) -> Recovery:
    """Return how a model is trained towards its original for a time (`30min`, `2h`), or on so many tokens (`2M`).

    length   or the name of a recovery recipe, or the path of one

    Raises `UserInputError` for what is none of these.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *(s|min|m|h|[KMB]?)", length)
    if found is None and not length.endswith((".yaml", ".yml")) and length not in RECOVERY_RECIPES:
        known = unknown_name(RECOVERY_RECIPES.kind, length, list(RECOVERY_RECIPES))
        raise UserInputError(f"{known}; or give a time, as 30min, or tokens, as 2M")
    stated = read_yaml(length if found is None else FOLLOWING, RECOVERY_RECIPES)
    if not isinstance(stated, dict):
        return parse_recovery(stated)
    if found is not None:
        number, unit = float(found[1]), found[2]
        stated = {key: value for key, value in stated.items() if key not in LENGTHS}
        stated |= {"minutes": number * _MINUTES[unit]} if unit in _MINUTES else {"tokens": int(number * _TOKENS[unit])}
    return parse_recovery(stated if stated.get("teacher") else {"original": original} | stated)
