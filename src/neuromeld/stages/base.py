"""The base of every stage: one way to make a model smaller, with all that is known of it in its own package.

The plan, the pipeline, the prediction of memory, the record, the recipe, the command line and the report go through the
stages in order (`stages/__init__.py`) and know none of them by name.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

from markupsafe import Markup
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from neuromeld.archs.resolve import Architecture
from neuromeld.archs.sizes import Sizes, layer_entries
from neuromeld.archs.spec import ArchSpec, Space
from neuromeld.drawing.section import Record, Section
from neuromeld.model.capture import Batch
from neuromeld.runtime.journal import NO_JOURNAL, Journal
from neuromeld.settings import Settings

Output = Literal["stock", "native"]
"""A stock checkpoint loads in plain transformers, a native one with neuromeld's code."""

ONE_SIZE = (
    "a stock config has one size for all layers, since model classes do not read transformers' per_layer_config (one "
    "number in the place of a list stays stock)"
)
"""Why a model whose layers differ in size is native."""


class StageOptions(Settings):
    """The options of a stage: the keys under its name in a recipe, and its options on the command line.

    Every field says what it is in its `description`.  Of `json_schema_extra`, `flag` names its option on the command
    line where that is not the stage's prefix and the field's name, `metavar` what a person writes there, and
    `target` marks fields of which one says how far the stage goes.
    """


@dataclass(frozen=True)
class Multiples:
    """Hold what the engines that a result is for want widths to be multiples of.

    alike     where all layers have one width
    by_layer  where each has its own
    """

    alike: int = 1
    by_layer: int = 1


@dataclass(frozen=True)
class Target:
    """The model that a stage is planned for.

    arch      as resolved before anything is done
    original  the sizes it was resolved at
    output    the format of the result
    multiples what widths that are rounded are rounded to, beyond what kernels like
    """

    arch: Architecture
    original: Sizes
    output: Output
    multiples: Multiples = Multiples()


@dataclass(frozen=True)
class Workload:
    """One stage of a job by its sizes; `tokens` are for calibration, `itemsize` is that of the weights.

    left          the architecture as the stages before leave it, with the layers of `before`
    batch_tokens  tokens that are run at once
    casts         weights in float32 are cast for forward passes in bfloat16
    walked        the stage before goes through the layers together with this one
    """

    target: Target
    left: Architecture
    before: Sizes
    after: Sizes
    tokens: int
    seqlen: int
    batch_tokens: int
    itemsize: int
    casts: bool = False
    walked: bool = False

    @property
    def arch(self) -> Architecture:
        """The architecture before anything is done."""
        return self.target.arch

    @property
    def is_looked_at(self) -> bool:
        """Whether it is a language model, whose perplexity is measured and which writes samples."""
        return self.arch.spec.reads_tokens and self.arch.spec.has_loss


@dataclass(frozen=True)
class Cost:
    """Cost of a stage, apart from what follows from sizes.

    parameters     of the result
    matrices       entries of matrices among them, of two operations a token each
    working_bytes  memory for what is worked with, the weights apart
    mapped_bytes   memory at most where the weights stay on the disk, all of it
    unmapped       why the weights cannot stay on the disk
    journal_bytes  of the disk, for finished steps
    held_bytes     of the disk, for what a job holds there whose weights stay on the disk
    """

    parameters: int = 0
    matrices: int = 0
    working_bytes: int = 0
    mapped_bytes: int = 0
    unmapped: tuple[str, ...] = ()
    journal_bytes: int = 0
    held_bytes: int = 0


@dataclass(frozen=True)
class Operations:
    """Hold what is computed by a stage, or by a whole job.

    tokens   that go through the whole network, head included, in plain forward passes; through half of it, as half
    sums     operations of sums over tokens in float64: processes share them, as they share the tokens
    factors  operations of factorisations and products of such sums, and of weights, in float64: every process does them
    """

    tokens: float = 0.0
    sums: float = 0.0
    factors: float = 0.0

    def __add__(self, other: "Operations") -> "Operations":
        return Operations(self.tokens + other.tokens, self.sums + other.sums, self.factors + other.factors)

    def __mul__(self, times: float) -> "Operations":
        return Operations(self.tokens * times, self.sums * times, self.factors * times)


@dataclass
class Job:
    """A live model on its way through the stages, and what they work with.

    arch        follows the layers that are there
    before      the sizes before the stage that runs
    after       the sizes behind it: planned, and corrected by a stage that finds out on the way
    data        calibration batches, or this rank's share of them
    sample      some of them, to find out on what is then done with all
    validation  batches that layers are chosen on
    cache       facts that identify model and data, where statistics of both may be kept for other jobs
    processor   of the model, which a stage may replace; None where it was not given
    original    the model as it came, in the tokens of now, for stages that learn; None where it still is the model
    """

    model: PreTrainedModel
    arch: Architecture
    target: Target
    before: Sizes
    after: Sizes
    data: Sequence[Batch]
    sample: Sequence[Batch] = ()
    validation: Sequence[Batch] = ()
    seed: int = 0
    cache: Mapping[str, str] | None = None
    journal: Journal = NO_JOURNAL
    progress: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    processor: Any = None
    original: nn.Module | None = None


O = TypeVar("O", bound=StageOptions)  # noqa: E741
R = TypeVar("R")


class Stage(ABC, Generic[O, R]):
    """One way to make a model smaller.

    name     of its package, and its key in a recipe
    title    what it does, for lists and the command line
    prefix   of its options on the command line
    Options  its options
    reads_processor  whether it needs the model's tokenizer, or other processor
    """

    name: ClassVar[str]
    title: ClassVar[str]
    prefix: ClassVar[str]
    Options: type[O]
    reads_processor: ClassVar[bool] = False

    def conflicts(self, options: O, others: Mapping[str, StageOptions]) -> list[str]:  # noqa: ARG002
        """Say what in this stage and the `others` of a recipe excludes each other."""
        return []

    def unavailable(self, spec: ArchSpec) -> str | None:  # noqa: ARG002
        """Say why no model of this architecture can be treated so, None where it can."""
        return None

    def refusals(self, model: PreTrainedModel, arch: Architecture, options: O) -> list[str]:  # noqa: ARG002
        """Say what of these options this model cannot be given, each with what to do."""
        return []

    def settle(self, options: O, processor: Any, config: PretrainedConfig) -> tuple[O, list[str]]:  # noqa: ARG002
        """Return the options with what only the processor tells filled in, and what a plan says of that."""
        return options, []

    @abstractmethod
    def resize(self, sizes: Sizes, options: O, target: Target) -> Sizes:
        """Return the sizes behind this stage.  `UserInputError` for sizes that cannot be."""

    def left(self, arch: Architecture, options: O) -> Architecture:  # noqa: ARG002
        """Return the layers of `arch` that it leaves, which the weights of a model are still to be found by."""
        return arch

    def native_reasons(self, options: O, target: Target, after: Sizes) -> list[str]:  # noqa: ARG002
        """Say why no stock config can hold the result; differing sizes of layers need not be named."""
        return []

    def served(self, after: Sizes, options: O) -> Sizes:  # noqa: ARG002
        """Return the sizes that engines are asked about: unlike by layer where those of the result may come to be."""
        return after

    def searches(self, options: O) -> bool:  # noqa: ARG002
        """Tell whether layers are chosen by the loss without them."""
        return False

    def learns(self, options: O) -> bool:  # noqa: ARG002
        """Tell whether something is learned from the predictions of the model as it came."""
        return False

    def holds_out(self, options: O) -> bool:  # noqa: ARG002
        """Tell whether part of the calibration data is held out, so that two batches are needed."""
        return False

    def unknowns(self, options: O, work: Workload) -> int:  # noqa: ARG002
        """Return the largest number of unknowns, per output, that calibration data has to determine."""
        return 0

    def foreseen(self, model: PreTrainedModel, arch: Architecture, options: O) -> list[str]:  # noqa: ARG002
        """Say what may go less well than it should, before it is done."""
        return []

    @abstractmethod
    def cost(self, options: O, work: Workload) -> Cost:
        """Predict what it takes, and what it adds beyond its sizes."""

    def operations(self, options: O, work: Workload) -> Operations:  # noqa: ARG002
        """Predict what it computes, which a time is told from; by default next to nothing."""
        return Operations()

    @abstractmethod
    def run(self, job: Job, options: O) -> R:
        """Do it to the model, in place, through `neuromeld.model.surgery`; return what was found and done."""

    def write_config(self, config: PretrainedConfig, target: Target, after: Sizes) -> None:
        """Make a stock config tell the sizes behind this stage."""

    def write_files(self, result: R, source: Path, out: Path) -> None:
        """Write into `out` what this stage changes of files of `source` that would else be copied."""

    def warnings(self, result: R) -> list[str]:  # noqa: ARG002
        """Say what went less well than it should."""
        return []

    @abstractmethod
    def record(self, result: R) -> dict[str, Any]:
        """Return what `record.json` keeps of it."""

    def sentences(self, record: Record) -> list[Markup]:  # noqa: ARG002
        """Say in a report what was done, a sentence each."""
        return []

    def sections(self, record: Record) -> list[Section | None]:  # noqa: ARG002
        """Draw its parts of a report; None where the record does not hold the data."""
        return []


AnyStage = Stage[Any, Any]


def layer_bytes(work: Workload, layer: int, sizes: Sizes, spaces: Collection[Space] = ()) -> int:
    """Return the bytes of the weights of a layer; with `spaces`, of those with an axis in one of them."""
    return work.itemsize * layer_entries(work.left, work.target.original, sizes, layer, spaces)


def largest_layer_bytes(work: Workload) -> int:
    """Return the bytes of the largest layer before anything is done."""
    arch, sizes = work.arch, work.target.original
    return work.itemsize * max(layer_entries(arch, sizes, sizes, layer) for layer in range(sizes.num_layers))


def table_bytes(work: Workload, width: int) -> list[int]:
    """Return the bytes of each embedding, and of a head of its own, at a width of the stream."""
    arch = work.arch
    head = None if arch.tied else arch.spec.head
    entries = (arch.widths[w.in_] * arch.widths[w.out] for w in (*arch.spec.embeddings, *([head] if head else [])))
    return [count // arch.width * width * work.itemsize for count in entries]
