"""Memory and disk of a job, predicted from sizes.

A plain job holds the weights in memory; a memory-mapped one (`runtime/paging.py`) the largest thing that is worked on
at once, and so does the device of a streamed one (`runtime/streaming.py`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from neuromeld.archs.spec import Space
from neuromeld.errors import UserInputError
from neuromeld.evaluation.outcome import NEW_TOKENS, OUTCOME_TOKENS
from neuromeld.planning.duration import Moves
from neuromeld.stages.base import Cost, Workload, largest_layer_bytes, table_bytes
from neuromeld.stages.windows import cast_and_chunk_bytes, loss_bytes

INTERPRETER_BYTES = 430 << 20
"""What Python, torch, transformers, a tokenizer and text take before a model is loaded."""


@dataclass(frozen=True)
class DeviceFootprint:
    """The device of a streamed job: bytes at most, and those of weights among them."""

    peak_bytes: int
    window_bytes: int


@dataclass(frozen=True)
class Footprint:
    """A job by the costs of its stages; `weights` are the bytes of the model as it comes.

    converted  bytes of each of the weights that lie in no file of the checkpoint, as experts that are put together
    copies   of so many bytes that a device holds where all may lie there: with a candidate, two
    """

    costs: Sequence[Cost]
    whole: Workload
    weights: int
    converted: Sequence[int] = ()
    copies: int = 1

    def within(self, max_memory: int | None) -> tuple[int, bool]:
        """Return the peak of the job, and whether it is memory-mapped so that it stays within `max_memory`."""
        peak = self.peak()
        if max_memory is None or peak <= max_memory:
            return peak, False
        return self.memory_mapped_peak(max_memory), True

    def peak(self) -> int:
        """Return bytes of memory with the weights in it: at most twice these to load (docs/decisions/0013)."""
        working = max([cast_and_chunk_bytes(self.whole), *(cost.working_bytes for cost in self.costs)])
        return INTERPRETER_BYTES + self.weights + max(self.weights, working)

    def memory_mapped_peak(self, max_memory: int) -> int:
        """Return the same of a memory-mapped job; `UserInputError` where that is too much, or cannot be told."""
        if refusals := self._all_weights_at_once:
            raise UserInputError(
                f"with its weights in memory this job takes {self.peak() / 1e6:,.0f}MB, more than --max-memory "
                f"{max_memory / 1e6:,.0f}MB, and it cannot leave them on the disk: {'; '.join(refusals)}. Leave that "
                "or --max-memory out"
            )
        peak = INTERPRETER_BYTES + self._working_bytes
        if peak > max_memory:
            smallest = min(peak, self.peak())
            raise UserInputError(
                f"--max-memory {max_memory / 1e6:,.0f}MB is too little: weights can stay on the disk, but not what is "
                f"worked on at once; the smallest that works is --max-memory {math.ceil(smallest / 1e6)}MB"
            )
        return peak

    def streamed(self, device_memory: int, *, memory_mapped: bool) -> DeviceFootprint | None:
        """Return what a device holds of a job; None where all weights may lie there, `UserInputError` for too little.

        A memory-mapped job is always streamed, since its weights are not to be in memory.
        """
        batch = self.whole.batch_tokens * self.whole.itemsize * (6 * self.whole.arch.width + 4 * self._widest)
        beside = self._working_bytes + batch
        whole = self.copies * self.weights + beside
        if whole <= device_memory and not memory_mapped:
            return None
        asked = f"--device-memory {device_memory / 1e6:,.0f}MB"
        if refusals := self._all_weights_at_once:
            raise UserInputError(
                f"with all weights on the device this job takes {whole / 1e6:,.0f}MB, more than "
                f"{asked}, and it cannot bring them one after the other: {'; '.join(refusals)}. Leave that or "
                "--device-memory out"
            )
        least = self.least_window
        if beside + least > device_memory:
            smallest = min(beside + least, whole)
            raise UserInputError(
                f"{asked} is too little: weights can come to the device one layer at a time, but not what is worked on "
                f"at once; the smallest that works is --device-memory {math.ceil(smallest / 1e6)}MB"
            )
        window = min(device_memory - beside, self.weights)
        return DeviceFootprint(beside + window, window)

    @property
    def least_window(self) -> int:
        """Bytes of the largest layer or table, which is on a device as a whole."""
        return max(largest_layer_bytes(self.whole), *table_bytes(self.whole, self.whole.arch.width), 0)

    @property
    def _widest(self) -> int:
        return self.whole.arch.widths[Space.FFN]

    @property
    def _all_weights_at_once(self) -> list[str]:
        """Why the weights cannot lie elsewhere than what is worked on."""
        return [reason for cost in self.costs for reason in cost.unmapped]

    @property
    def _working_bytes(self) -> int:
        """The largest that is worked on at once, where weights come a layer at a time."""
        putting_together = 3 * max(self.converted, default=0)  # what it is made of, parts of it, and the whole
        return max([loss_bytes(self.whole), putting_together, *(cost.mapped_bytes for cost in self.costs)])

    def moves(self, stages: int, bytes_after: int, *, memory_mapped: bool, streamed: bool) -> Moves:
        """Return what the job reads and writes, and how often it goes through all weights."""
        looks = math.ceil(OUTCOME_TOKENS / self.whole.batch_tokens) + NEW_TOKENS if self.whole.is_looked_at else 0
        return Moves(
            self.weights,
            read=2 * self.weights + bytes_after,  # to identify the model and to load it; to load the result
            written=self.disk(bytes_after, memory_mapped=memory_mapped),
            walks=stages + 1,
            looks=2 * looks,
            memory_mapped=memory_mapped,
            streamed=streamed,
        )

    def disk(self, bytes_after: int, *, memory_mapped: bool) -> int:
        """Return bytes beside and in the output: finished steps, what a memory-mapped job holds, the result."""
        held = max((cost.held_bytes for cost in self.costs), default=0) + sum(self.converted) if memory_mapped else 0
        return bytes_after + sum(cost.journal_bytes for cost in self.costs) + held
