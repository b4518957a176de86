"""One kind of input: how models that read it are calibrated, trained and measured."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from transformers import PretrainedConfig, PreTrainedModel

from neuromeld.archs.spec import Inputs
from neuromeld.checkpoint.source import ModelSource
from neuromeld.data.calibration import Calibration
from neuromeld.data.text import Split
from neuromeld.errors import UserInputError
from neuromeld.evaluation import TaskScores
from neuromeld.modalities.examples import Examples, TrainingSet
from neuromeld.model.capture import Batch


@dataclass(frozen=True)
class EvaluationData:
    """The data to measure on.

    source          a named one or `file:PATH`; None is the usual one for the kind of input
    tokens, seqlen  of text: tokens in all, and in one window
    limit           of anything else: examples, from the first; None is all
    processor       of the models, where it is another than their source's: the same data, in its tokens
    """

    source: str | None = None
    split: Split = "evaluation"
    tokens: int = 32768
    seqlen: int = 512
    limit: int | None = None
    processor: Any = None


@dataclass(frozen=True)
class Measured:
    """Scores of a model on evaluation data.

    scores    by name, as `perplexity`, `loss` (nats per prediction) or `word_error_rate`
    context   positions that operations are counted at
    facts     further entries of a result, with the protocol
    answers   example by example under the name of the data, where right and wrong can be told apart
    """

    scores: Mapping[str, float]
    context: int
    facts: Mapping[str, Any] = field(default_factory=dict)
    answers: TaskScores = field(default_factory=dict)

    @property
    def sha256(self) -> str | None:
        """Return the sha256 of the data, where a protocol has it."""
        protocols = [self.facts.get("protocol", {}), *(score.protocol for score in self.answers.values())]
        return next((str(protocol["sha256"]) for protocol in protocols if protocol.get("sha256")), None)


Measure = Callable[[PreTrainedModel], Measured]


class Modality(Protocol):
    """One kind of input.  A *processor* is what turns it into tensors, and is saved with the model.

    name          what an architecture says that it reads
    default       the usual data; None where there is none
    data_option   the field of `EvaluationRequest` that names the data to measure on
    limit_option  the one that says how many examples; None for text, which is counted in tokens
    options       all fields of `EvaluationRequest` that mean something here
    """

    @property
    def name(self) -> Inputs: ...
    @property
    def default(self) -> str | None: ...
    @property
    def data_option(self) -> str: ...
    @property
    def limit_option(self) -> str | None: ...
    @property
    def options(self) -> frozenset[str]: ...

    def processor(self, folder: Path) -> Any:
        """Return the processor in a checkpoint folder.  Raises `CheckpointError`."""

    def calibration(self, settings: Calibration, processor: Any, config: PretrainedConfig, tokens: int) -> Examples:
        """Return about `tokens` tokens of the calibration split, drawn by the seed of `settings`."""

    def validation(self, settings: Calibration, processor: Any, config: PretrainedConfig, most: int) -> Examples:
        """Return the first of the validation split, at most about `most` tokens."""

    def training(self, settings: Calibration, processor: Any, config: PretrainedConfig) -> TrainingSet:
        """Return all of the calibration split; `tokens` of the settings says how much a model writes itself."""

    def compared(self, source: ModelSource, data: EvaluationData) -> Iterator[Batch]:
        """Yield the evaluation data in the tokens of the model at `source`, to compare what models say of it.

        `UserInputError` for data that cannot be had.
        """

    def evaluation(self, source: ModelSource, data: EvaluationData, *, progress: bool = False) -> Measure:
        """Read the evaluation data of the model at `source`, and return what measures models on it.

        `UserInputError` for data that cannot be had; the measure raises it for a model that has no such score.
        """


def no_seqlen(settings: Calibration, why: str) -> None:
    """Raise `UserInputError` for a window length that would have no effect.

    The default is let through: recipes and recovery settings that were written down state it, whatever the model reads.
    """
    if settings.seqlen != Calibration.model_fields["seqlen"].default:
        raise UserInputError(f"seqlen={settings.seqlen} is for text; {why}")
