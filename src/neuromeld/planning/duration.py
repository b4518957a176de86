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


@dataclass(frozen=True)
class Work:
    """What a job computes and moves, whatever the machine.

    tokens         for calibration: what a plain pass over the data runs through the network
    flops          operations of one token in a plain forward pass
    dtypes         that passes may compute in: the fastest of them is taken
    read, written  bytes
    """

    operations: Operations
    tokens: int
    flops: int
    dtypes: tuple[str, ...]
    read: int = 0
    written: int = 0

    @property
    def passes(self) -> float:
        """Plain forward passes over the calibration data."""
        return self.operations.tokens / self.tokens


@dataclass(frozen=True)
class JobTime:
    """Seconds of each part of a job."""

    passes: float
    sums: float
    factors: float
    disk: float

    @property
    def seconds(self) -> float:
        """All in all."""
        return self.passes + self.sums + self.factors + self.disk


def time_of(work: Work, throughput: Throughput, ranks: int = 1) -> JobTime:
    """Predict the time of a job; `ranks` processes, each on such a device, share its tokens, and one disk."""
    operations = work.operations
    return JobTime(
        passes=operations.tokens * work.flops / max(map(throughput.of, work.dtypes)) / ranks,
        sums=operations.sums / throughput.sums / ranks,
        factors=operations.factors / throughput.float64,
        disk=(ranks * work.read + work.written) / throughput.disk,
    )


def load_throughput(name_or_path: str) -> Throughput:
    """Return a throughput by the name it ships under, or from a YAML or JSON file."""
    return validate(Throughput, read_yaml(name_or_path, THROUGHPUTS), "throughput")


def said(seconds: float) -> str:
    """Say a time to a person."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
