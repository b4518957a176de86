"""Measure what narrowing each sublayer alone costs: widths of one greedy removal, the loss of each on a little text.

The loss is the divergence from the predictions of the model as it is, which a few hundred predictions tell well.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from neuromeld.archs.resolve import Architecture
from neuromeld.archs.spec import Space
from neuromeld.linalg.removal import Removal, greedy_removal
from neuromeld.model.capture import Batch
from neuromeld.model.layerwise import walk_layers
from neuromeld.model.predictions import Predictions, kl, predictions, sum_in_chunks
from neuromeld.model.replay import record_layers, replaying
from neuromeld.model.surgery import read_bias, read_matrix, reversible, write_bias, write_matrix
from neuromeld.runtime.journal import Journal
from neuromeld.runtime.progress import Advance
from neuromeld.shapes import ACCUMULATE
from neuromeld.stats import Features
from neuromeld.units.compensation import Consumer, ridge
from neuromeld.units.selectors import Units
from neuromeld.units.sublayer import Sublayer, moments

LEVELS = 6
"""Widths of each sublayer that are measured, in even steps, the last of them 0."""

TOKENS = 2048
"""Tokens of validation text that a level is measured on, in whole batches."""

PREDICTIONS = 512
"""At most about so many of their predictions are compared, evenly spread; more would tell little of the same batches,
and two heads over a vocabulary cost more than the layers.
"""


@dataclass(frozen=True)
class LevelLosses:
    """Measure the loss of a model in which some units of one sublayer do nothing.

    counts   units of a layer, by the spaces that are measured
    """

    model: nn.Module
    arch: Architecture
    counts: dict[Space, int]

    @torch.no_grad()
    def measured(
        self,
        data: Sequence[Batch],
        validation: Sequence[Batch],
        journal: Journal,
        advance: Advance = lambda _: None,
    ) -> dict[str, Tensor]:
        """Return the nats per prediction that each feature adds, `(f,)`, by the path of the consumer that reads it.

        Those of a unit add up to its own.  Between levels they are spread as the errors of the removal are; they never
        fall from level to level, so that taking away the least first is the best for any budget.

        data        that removals are computed and weights refitted on
        validation  that losses are measured on

        Memory: the stream of all data, and of one batch of validation text at every layer.
        """
        size = next(iter(validation[0].values())).numel()
        tests = [_Test.of(self.model, self.arch, batch) for batch in validation[: max(1, TOKENS // size)]]
        step = math.ceil(sum(len(test.expected) for test in tests) / PREDICTIONS)
        tests = [replace(test, expected=test.expected.every(step), step=step) for test in tests]
        found = {}
        for inputs in walk_layers(self.model, self.arch, data, offload=journal.offload):
            for space in self.counts:
                sublayer = Sublayer(self.model, inputs, space)
                if inputs.index in self.arch.layers_with(space):
                    scores = journal.once(f"levels-{space}-{inputs.index}", self._scores, sublayer, tests)
                    found[sublayer.consumer.path] = torch.tensor(scores, dtype=ACCUMULATE)
            advance(inputs.index + 1)
        return found

    def _scores(self, sublayer: Sublayer, tests: Sequence["_Test"]) -> list[float]:
        fitted, held_out = moments(sublayer)
        matrix, count = read_matrix(self.model, sublayer.consumer).to(ACCUMULATE), self.counts[sublayer.space]
        size = len(matrix) // count
        removal = greedy_removal(Units(fitted, matrix).damped_gram[0], matrix, size)
        levels, losses = sorted({max(1, round(count * level / LEVELS)) for level in range(1, LEVELS + 1)}), []
        for gone in levels:
            kept = (removal.order[gone:, None] * size + torch.arange(size, device=matrix.device)).flatten()
            with reversible(self.model):
                _silence(sublayer, matrix, kept.sort().values, fitted, held_out)
                losses.append(sum(test.loss(sublayer.layer) for test in tests) / sum(len(t.expected) for t in tests))
        scores = torch.empty(count, dtype=ACCUMULATE, device=matrix.device)
        scores[removal.order] = marginal_losses(levels, losses, removal)
        spread: list[float] = (scores / size).repeat_interleave(size).tolist()
        return spread


@dataclass(frozen=True)
class _Test:
    """A batch of validation text, what the model predicts on it, and what its layers return there.

    step  between predictions that are compared
    """

    model: nn.Module
    arch: Architecture
    batch: Batch
    expected: Predictions
    outputs: dict[int, Any]
    step: int = 1

    @classmethod
    def of(cls, model: nn.Module, arch: Architecture, batch: Batch) -> "_Test":
        return cls(model, arch, batch, predictions(model, batch), record_layers(model, arch, batch, arch.num_layers))

    def loss(self, layer: int) -> float:
        """Return the divergence, in nats, of the model as it is now; the layers before this one are as they were."""
        with replaying(self.model, self.arch, self.outputs, layer):
            found = predictions(self.model, self.batch).every(self.step)
            return float(sum_in_chunks(kl, found, self.expected))


def _silence(sublayer: Sublayer, matrix: Tensor, kept: Tensor, fitted: Features, held_out: Features) -> None:
    """Let only some features be read, by weights that are refitted; none are where nothing is kept."""
    model, consumer = sublayer.model, sublayer.consumer
    bias, narrow = read_bias(model, consumer), torch.zeros_like(matrix)
    if len(kept):
        fit = ridge(Consumer(fitted.narrow(kept), held_out.narrow(kept), matrix[kept], bias is not None))
        narrow[kept] = fit.fit.matrix
        shift = fit.shift
    else:
        shift = fitted.target_mean
    write_matrix(model, consumer, narrow)
    if bias is not None and shift is not None:
        write_bias(model, consumer, bias.to(ACCUMULATE) + shift)


def marginal_losses(levels: Sequence[int], losses: Sequence[float], removal: Removal) -> Tensor:
    """Return what each unit adds to the loss, `(u,)`, in the order of the removal.

    levels, losses   units that are gone, ascending up to all, and the loss then

    The sum up to a level is its loss, or what lies below it on the lower convex hull of all.
    """
    errors, hull = removal.errors.clamp_min(torch.finfo(ACCUMULATE).tiny), [(0, 0.0)]
    for point in zip(levels, losses, strict=True):
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-2], point):
            hull.pop()
        hull.append(point)
    return torch.cat(list(_spread(hull, errors)))


def _spread(hull: Sequence[tuple[int, float]], errors: Tensor) -> Iterator[Tensor]:
    for (first, low), (end, high) in pairwise(hull):
        part = errors[first:end]
        yield (high - low) * part / part.sum()


def _slope(one: tuple[int, float], other: tuple[int, float]) -> float:
    return (other[1] - one[1]) / (other[0] - one[0])
