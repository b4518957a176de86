"""Measure how long each part of a job took."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Phases:
    """Parts of a job by name: their seconds by the clock, and of processor time, of all threads of this process."""

    seconds: dict[str, float] = field(default_factory=dict)
    processor_seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, what: str) -> Iterator[None]:
        """Add what the block takes to `what`."""
        started, worked = time.monotonic(), time.process_time()
        yield
        self._add(what, time.monotonic() - started, time.process_time() - worked)

    def add(self, other: "Phases") -> None:
        """Add the phases of a part of the job."""
        for what, seconds in other.seconds.items():
            self._add(what, seconds, other.processor_seconds[what])

    def over(self, processor_seconds: float) -> dict[str, float]:
        """Return the processor time of each phase as a multiple of `processor_seconds`."""
        return {what: seconds / processor_seconds for what, seconds in self.processor_seconds.items()}

    def _add(self, what: str, seconds: float, processor_seconds: float) -> None:
        self.seconds[what] = self.seconds.get(what, 0.0) + seconds
        self.processor_seconds[what] = self.processor_seconds.get(what, 0.0) + processor_seconds
