"""Describe a form that a checkpoint can be exported to, and an engine that loads it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from neuromeld.checkpoint.export.shape import Shape

LogProbabilities = Callable[[Path, Sequence[int]], list[float]]
"""The log-probabilities that an engine gives each token of a text but the first, in nats."""


@dataclass(frozen=True)
class Content:
    """Hold a model and its tokenizer for an export.

    quantize   a type of llama.cpp, as q8_0; None keeps the dtype of the weights
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    quantize: str | None = None


@dataclass(frozen=True)
class Form:
    """One form; the function that writes it has its summary as the first line of its docstring.

    name      what `--to` takes
    module    the Python module of the engine that loads the result where it is installed
    reasons   why a model of a shape, with a config, cannot be written so: none where it can
    write     write it into a folder
    compare   read it again, and compare every tensor with the model; `CheckpointError` where one differs
    measure   what its engine makes of it
    quantize  the types that its matrices can be written in
    stock     whether a stock checkpoint is written so, too; otherwise the engine loads it as it is
    """

    name: str
    module: str | None
    reasons: Callable[[Shape, Any], list[str]]
    write: Callable[[Content, Path], None]
    compare: Callable[[Content, Path], None]
    measure: LogProbabilities | None = None
    quantize: tuple[str, ...] = ()
    stock: bool = True

    @property
    def summary(self) -> str:
        """One sentence for lists."""
        return (self.write.__doc__ or "").split("\n")[0].removesuffix(".")


@dataclass(frozen=True)
class Verdict:
    """Whether an engine loads a checkpoint: `how` it does, or None, and why it does not."""

    engine: str
    tried: str
    how: str | None
    reasons: tuple[str, ...] = ()

    @property
    def row(self) -> tuple[str, str, str]:
        """The engine, the versions, and the answer in words."""
        return self.engine, self.tried, self.how or f"no: {'; '.join(self.reasons)}"


HEAD = ("engine", "versions", "loads it")
"""What stands over a row."""


def recorded_rows(record: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the rows of what a record says of engines; none where it does not."""
    return [Verdict(**entry).row for entry in record.get("engines", [])]
