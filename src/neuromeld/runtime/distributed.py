"""Calibration in several processes: each takes its share of the batches, and sums are added over all of them.

`torchrun` or `accelerate launch` starts the processes, the *ranks*.  All of them hold the whole model and change it
alike, since all see the same sums; the first one alone writes.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar, overload

import torch
import torch.distributed as dist
from torch import Tensor

from neuromeld.errors import LostRankError, UserInputError

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def process_group() -> Iterator[None]:
    """Join the other ranks, if there are any, for the length of the block; leaves a group that exists as it is."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    on_cards = torch.cuda.is_available() and dist.is_nccl_available()
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_cards else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def num_ranks() -> int:
    """Return how many processes work on this job."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first_rank() -> bool:
    """Tell whether this process is the one that writes."""
    return not dist.is_initialized() or dist.get_rank() == 0


def own_device(device: str) -> str:
    """Return the device of this rank: of several on one machine each has a GPU of its own, unless one is named."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" and "LOCAL_RANK" in os.environ else device


@dataclass(frozen=True)
class Share(Sequence[T]):
    """Every `step`-th of all batches, from the one at `first`."""

    everything: Sequence[T]
    first: int
    step: int

    @property
    def items(self) -> Sequence[T]:
        return self.everything[self.first :: self.step]

    def __len__(self) -> int:
        return len(range(self.first, len(self.everything), self.step))

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        return self.items[index]


def shard_batches(batches: Sequence[T]) -> Sequence[T]:
    """Return the batches that this rank takes.  `UserInputError` where there are fewer than ranks."""
    ranks = num_ranks()
    if ranks == 1:
        return batches
    if len(batches) < ranks:
        raise UserInputError(
            f"{len(batches)} calibration batches for {ranks} processes: start fewer, or give more text"
        )
    return Share(batches, dist.get_rank(), ranks)


def every_batch(batches: Sequence[T]) -> Sequence[T]:
    """Return the batches of all ranks, of which these are this rank's share."""
    return batches.everything if isinstance(batches, Share) else batches


def own_rows(batches: Iterable[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Return what this rank takes of batches that every rank has: some rows of each, none of those with too few."""
    rank, ranks = (dist.get_rank(), num_ranks()) if num_ranks() > 1 else (0, 1)
    shares = ({name: value[rank::ranks] for name, value in batch.items()} for batch in batches)
    return [share for share in shares if len(next(iter(share.values())))]


def global_index(batches: Sequence[T], index: int) -> tuple[int, int]:
    """Return which of all batches is at `index` of these, and how many there are in all."""
    if isinstance(batches, Share):
        return batches.first + index * batches.step, len(batches.everything)
    return index, len(batches)


def map_over_ranks(items: Sequence[T], compute: Callable[[T], R]) -> list[R]:
    """Return what `compute` makes of every item, each done by one rank and told to all."""
    ranks = num_ranks()
    if ranks == 1:
        return [compute(item) for item in items]
    done: list[list[R]] = [[] for _ in range(ranks)]
    own = [compute(item) for item in items[dist.get_rank() :: ranks]]
    with naming_lost_ranks():
        dist.all_gather_object(done, own)
    return [done[index % ranks][index // ranks] for index in range(len(items))]


def sum_over_ranks(number: int) -> int:
    """Return the sum of the values that the ranks give."""
    return int(sum_tensor(torch.tensor(number)))


def wait_for_all() -> None:
    """Return once every rank has come here."""
    if num_ranks() > 1:
        with naming_lost_ranks():
            dist.barrier()


def sum_tensor(value: Tensor) -> Tensor:
    """Add a tensor over all ranks; it stays on its device.  `LostRankError` where another rank has ended."""
    if num_ranks() == 1:
        return value
    total = value.cpu().clone()
    with naming_lost_ranks():
        dist.all_reduce(total)
    return total.to(value.device)


@contextmanager
def naming_lost_ranks() -> Iterator[None]:
    """Raise `LostRankError` where another rank has ended while it was waited for."""
    try:
        yield
    except RuntimeError as error:
        raise LostRankError(
            f"another process of this job has ended ({str(error).splitlines()[0]}); nothing was written: see its "
            "message, and start all of them again"
        ) from error
