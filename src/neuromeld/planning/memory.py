"""Memory and disk of a job, predicted from sizes.

A plain job holds the weights in memory; a memory-mapped one (`runtime/paging.py`) the largest thing that is worked on
at once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from neuromeld.errors import UserInputError
from neuromeld.stages.base import Cost, Workload
from neuromeld.stages.windows import cast_and_chunk_bytes, loss_bytes

INTERPRETER_BYTES = 520 << 20
"""What Python, torch, transformers, a tokenizer and text take before a model is loaded."""


@dataclass(frozen=True)
class Footprint:
    """A job by the costs of its stages; `weights` are the bytes of the model as it comes."""

    costs: Sequence[Cost]
    whole: Workload
    weights: int
    experts: bool

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
        refusals = ["experts are put together in memory when they are read"] if self.experts else []
        refusals += [reason for cost in self.costs for reason in cost.unmapped]
        if refusals:
            raise UserInputError(
                f"with its weights in memory this job takes more than --max-memory {max_memory / 1e6:,.0f}MB, and it "
                f"cannot leave them on the disk: {'; '.join(refusals)}. Leave that or --max-memory out"
            )
        working = [loss_bytes(self.whole), *(cost.mapped_bytes for cost in self.costs)]
        peak = INTERPRETER_BYTES + max(working)
        if peak > max_memory:
            smallest = min(peak, self.peak())
            raise UserInputError(
                f"--max-memory {max_memory / 1e6:,.0f}MB is too little: weights can stay on the disk, but not what is "
                f"worked on at once; the smallest that works is --max-memory {math.ceil(smallest / 1e6)}MB"
            )
        return peak

    def disk(self, bytes_after: int, *, memory_mapped: bool) -> int:
        """Return bytes beside and in the output: finished steps, what a memory-mapped job holds, the result."""
        held = max((cost.held_bytes for cost in self.costs), default=0) if memory_mapped else 0
        return bytes_after + sum(cost.journal_bytes for cost in self.costs) + held
