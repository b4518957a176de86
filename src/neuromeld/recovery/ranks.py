"""Recovery in several processes: each takes a part of every update, and gradients are averaged over all of them.

All hold the whole model and change it alike, so the result is that of one process but for rounding; the first one
measures, keeps and writes, and tells the others.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from neuromeld.runtime.distributed import is_first_rank, naming_lost_ranks, num_ranks
from neuromeld.runtime.journal import Journal

T = TypeVar("T")


def own_part(numbers: Sequence[int]) -> Sequence[int]:
    """Return what this process takes of the examples of an update, as many as every other."""
    return numbers[dist.get_rank() :: num_ranks()] if num_ranks() > 1 else numbers


def told_by_first(compute: Callable[[], T]) -> T:
    """Return what `compute` returns in the first process, which alone calls it."""
    if num_ranks() == 1:
        return compute()
    told: list[T | None] = [compute() if is_first_rank() else None]
    with naming_lost_ranks():
        dist.broadcast_object_list(told)
    return told[0]  # type: ignore[return-value]


def once_for_all(journal: Journal, step: str, compute: Callable[..., Any], *arguments: Any) -> Any:
    """Return `compute(*arguments)`, called in every process, or what it was where the first one's journal has that."""
    entry = told_by_first(partial(journal.recall, step))
    if entry is not None:
        return entry.facts
    found = compute(*arguments)
    found = told_by_first(lambda: found)
    journal.keep(step, found)
    return found


@torch.no_grad()
def average(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its mean over all processes; they are sent as one for each format."""
    if num_ranks() == 1:
        return
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        by_dtype.setdefault(tensor.dtype, []).append(tensor)
    for group in by_dtype.values():
        flat = nn.utils.parameters_to_vector(group)
        with naming_lost_ranks():
            dist.all_reduce(flat)
        for tensor, mean in zip(group, (flat / num_ranks()).split([one.numel() for one in group]), strict=True):
            tensor.copy_(mean.view_as(tensor))
