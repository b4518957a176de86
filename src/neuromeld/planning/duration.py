"""The time of a job, from its operations and from what a machine does in a second."""

from dataclasses import dataclass
from pathlib import Path

from neuromeld.evaluation.throughput import Throughput
from neuromeld.planning.recipe import read_yaml
from neuromeld.registry import Registry
from neuromeld.settings import validate
from neuromeld.stages.base import Operations

THROUGHPUTS: Registry[Path] = Registry(
    "throughput", {path.stem: path for path in sorted((Path(__file__).parent / "throughputs").glob("*.yaml"))}
)
"""What machines were measured to do that may not be at hand, by name."""


REACHED = 0.7
"""Share of a throughput that whole jobs reached: SmolLM2-135M on one thread of a processor, FFNs and the stream
narrowed (`benchmarks/cost.py`)."""


@dataclass(frozen=True)
class Moves:
    """Bytes that a job moves, and how often it goes through all weights.

    weights        of the model as it comes
    read, written  of the disk, once
    walks          of the stages, and to write the result; `looks`, to look at both models
    memory_mapped  whether each walk reads the weights from the disk
    streamed       whether each walk brings them to the device
    """

    weights: int = 0
    read: int = 0
    written: int = 0
    walks: int = 0
    looks: int = 0
    memory_mapped: bool = False
    streamed: bool = False

    def seconds(self, times: int, throughput: Throughput) -> float:
        """Return how long it takes to go through all weights so often, apart from what is computed with them."""
        ways = [throughput.disk] * self.memory_mapped + [throughput.bus] * self.streamed
        return times * self.weights * sum(1 / way for way in ways)


@dataclass(frozen=True)
class Work:
    """Hold what a job computes and moves, whatever the machine.

    tokens  for calibration: what a plain pass over the data runs through the network
    flops   operations of one token in a plain forward pass
    dtypes  that passes may compute in: the fastest of them is taken
    looked  tokens of evaluation text that both models are looked at on, in plain forward passes
    """

    operations: Operations
    tokens: int
    flops: int
    dtypes: tuple[str, ...]
    looked: float = 0.0
    moves: Moves = Moves()

    @property
    def passes(self) -> float:
        """Plain forward passes over the calibration data."""
        return self.operations.tokens / self.tokens


@dataclass(frozen=True)
class JobTime:
    """Seconds of each part of a job.

    passes   forward and backward passes; `sums` over tokens, and `factors` of them
    moving   weights from the disk and to the device, walk by walk, where they do not lie there
    disk     reading the model and writing the result
    looking  at both models: perplexity and samples
    """

    passes: float
    sums: float
    factors: float
    moving: float
    disk: float
    looking: float

    @property
    def seconds(self) -> float:
        """All in all."""
        return self.passes + self.sums + self.factors + self.moving + self.disk + self.looking


def time_of(work: Work, throughput: Throughput, ranks: int = 1) -> JobTime:
    """Predict the time of a job; `ranks` processes, each on such a device, share its tokens, and read at once."""
    operations, moves = work.operations, work.moves
    token = work.flops / (REACHED * max(map(throughput.of, work.dtypes)))
    return JobTime(
        passes=operations.tokens * token / ranks,
        sums=operations.sums / (REACHED * throughput.sums) / ranks,
        factors=operations.factors / (REACHED * throughput.float64),
        moving=moves.seconds(moves.walks, throughput),
        disk=(moves.read + moves.written) / throughput.disk,
        looking=work.looked * token
        + moves.looks * moves.weights / throughput.memory
        + moves.seconds(moves.looks, throughput),
    )


def load_throughput(name_or_path: str) -> Throughput:
    """Return a throughput by the name it ships under, or from a YAML or JSON file."""
    return validate(Throughput, read_yaml(name_or_path, THROUGHPUTS), "throughput")


def said(seconds: float) -> str:
    """Say a time to a person."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
