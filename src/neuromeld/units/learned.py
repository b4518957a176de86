"""Learn which units to keep: scores trained through a soft choice under a budget.

Every unit, a hidden neuron or a group of heads, has a score.  The forward pass has the units that would be kept now,
and the gradient by what is kept of each goes on to the scores as if that were the share that a soft choice keeps
(`transport/capacity.py`; straight through, arXiv:1308.3432), whose temperature falls.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from neuromeld.archs.spec import Space
from neuromeld.model.capture import Batch
from neuromeld.model.learning import Look, Teacher, learn
from neuromeld.runtime.journal import Journal
from neuromeld.shapes import ACCUMULATE
from neuromeld.units.pools import LayerUnits, Pool
from neuromeld.units.taylor import taylor_importance

TEMPERATURES = (0.5, 0.05)
"""At the first and at the last step; scores start with a standard deviation of 1."""


@dataclass(frozen=True)
class LayerScores:
    """The scores of the units of one layer, from the least to the largest: every tenth part of the way."""

    space: Space
    layer: int
    deciles: tuple[float, ...]


@dataclass(frozen=True)
class Learned:
    """Scores by the path of what reads the units, one for each unit, and how they came about."""

    scores: dict[str, Tensor]
    layers: list[LayerScores]
    looks: list[Look]


@dataclass(frozen=True)
class UnitScores:
    """Scores of all units of some budgets, in one piece, to be learned."""

    teacher: Teacher
    pools: Sequence[Pool]
    name: str = "learned"
    rate: float = 0.1

    def learned(
        self, batches: Sequence[Batch], journal: Journal, advance: Callable[[int], None] = lambda _: None
    ) -> Learned:
        """Return the scores that were best on the held-out batches."""
        best, looks = learn(self, self.teacher.model, batches, journal, advance)
        tenths = torch.linspace(0, 1, 11, dtype=ACCUMULATE, device=best.device)
        layers = [
            LayerScores(one.space, one.layer, tuple(scores.quantile(tenths).tolist()))
            for pool, parts in self._by_pool(best)
            for one, scores in zip(pool.members, parts, strict=True)
        ]
        by_layer = best.split([member.count for member in self._members])
        return Learned(dict(zip(self._paths, by_layer, strict=True)), layers, looks)

    def begin(self, batches: Sequence[Batch]) -> Tensor:
        """Return the logarithm of the Taylor importance over the cost, with mean 0 and deviation 1 in each pool."""
        spaces = sorted({one.space for one in self._members})
        teacher = self.teacher
        importance = taylor_importance(teacher.model, teacher.arch, spaces, batches, light=teacher.light)
        by_unit = [importance[self._path(one)].view(one.count, -1).sum(1) / one.cost for one in self._members]
        logarithms = torch.cat(by_unit).clamp_min(torch.finfo(ACCUMULATE).tiny).log()
        pools = [torch.cat(found) for _, found in self._by_pool(logarithms)]
        return torch.cat([(x - x.mean()) / (x.std() if len(x) > 1 else x.new_ones(())).clamp_min(1e-6) for x in pools])

    @torch.enable_grad()
    def gradient(self, numbers: Tensor, batch: Batch, way: float) -> tuple[float, Tensor]:
        """Return the loss of the choice as it would be made now, and its gradient through the shares of a soft one."""
        scores, temperature = numbers.detach().requires_grad_(), _temperature(way)
        soft = [share for pool, part in self._by_pool(scores) for share in pool.shares(part, temperature)]
        leaves = [mask.requires_grad_() for pool, part in self._by_pool(numbers) for mask in pool.choice(part)]
        loss, gradients = self.teacher.divergence([batch], self._masked(leaves), leaves)
        torch.autograd.backward(soft, gradients)
        assert scores.grad is not None
        return loss, scores.grad

    def test(self, numbers: Tensor, batches: Sequence[Batch]) -> float:
        """Return the loss of the choice as it would be made now."""
        hard = [mask for pool, part in self._by_pool(numbers) for mask in pool.choice(part)]
        return self.teacher.divergence(batches, self._masked(hard))[0]

    @property
    def _members(self) -> list[LayerUnits]:
        return [member for pool in self.pools for member in pool.members]

    @property
    def _paths(self) -> list[str]:
        return [self._path(member) for member in self._members]

    def _path(self, units: LayerUnits) -> str:
        return self.teacher.arch.consumer(units.layer, units.space).path

    def _by_pool(self, scores: Tensor) -> Iterator[tuple[Pool, list[Tensor]]]:
        parts = iter(scores.split([member.count for member in self._members]))
        for pool in self.pools:
            yield pool, [next(parts) for _ in pool.members]

    def _masked(self, masks: Sequence[Tensor]) -> Any:
        return partial(_masked, self.teacher.model, dict(zip(self._paths, masks, strict=True)))


def _temperature(way: float) -> float:
    """The temperature after this share of the way: it falls by the same factor at every step."""
    first, last = TEMPERATURES
    return float(first * (last / first) ** way)


@contextmanager
def _masked(model: nn.Module, masks: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, what the module at each path reads is multiplied by its mask, one number for each unit."""

    def before(mask: Tensor) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
        def multiply(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            x = args[0]
            return (x * mask.to(x).repeat_interleave(x.shape[-1] // len(mask)), *args[1:])

        return multiply

    with ExitStack() as hooks:
        for path, mask in masks.items():
            hooks.callback(model.get_submodule(path).register_forward_pre_hook(before(mask)).remove)
        yield
