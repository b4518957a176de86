"""Learn which units to keep: scores trained through a soft choice under a budget, with the weights frozen.

Every unit, a hidden neuron or a group of heads, has a score.  The forward pass multiplies its features by the share
that is kept of it (`transport/capacity.py`), the loss is the divergence from the predictions of the whole model, and
Adam moves the scores while the temperature falls.  The text is seen once, since scores overfit (docs/decisions/0032).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from neuromeld.archs.resolve import Architecture
from neuromeld.archs.spec import Space
from neuromeld.model.capture import Batch
from neuromeld.model.gradients import frozen
from neuromeld.model.predictions import kl, predictions, sum_in_chunks
from neuromeld.runtime.journal import Journal
from neuromeld.shapes import ACCUMULATE
from neuromeld.stats.split import divided
from neuromeld.units.pools import Pool
from neuromeld.units.taylor import single_windows, taylor_importance

TEMPERATURES = (0.5, 0.05)
"""At the first and at the last step; scores start with a standard deviation of 1."""

LEARNING_RATE = 0.1
"""At the first step; it falls to 0 in a line."""

TESTS = 8
"""How often the held-out text is looked at on the way; the scores that were best there are taken."""

START_BATCHES = TEST_BATCHES = 2
"""Batches that scores start from, and held-out ones that they are tested on."""


@dataclass(frozen=True)
class Look:
    """The learning at one step, in nats per token from the whole model's predictions.

    loss      of the soft choice, on the text of the step; None before the first
    held_out  of the choice as it would be made now, on held-out text; None where that was not looked at
    """

    step: int
    temperature: float
    loss: float | None
    held_out: float | None


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


@dataclass
class _State:
    """The learning after a step: scores of all units in one piece, the moments of Adam, and the best scores so far."""

    scores: Tensor
    mean: Tensor
    square: Tensor
    best: Tensor
    least: float
    looks: list[Look]

    def move(self, gradient: Tensor, rate: float) -> None:
        """Move the scores by Adam (arXiv:1412.6980), with its usual constants."""
        number = len(self.looks)
        self.mean = 0.9 * self.mean + 0.1 * gradient
        self.square = 0.999 * self.square + 0.001 * gradient.square()
        size = (self.square / (1 - 0.999**number)).sqrt() + 1e-8
        self.scores = self.scores - rate * self.mean / (1 - 0.9**number) / size


@dataclass(frozen=True)
class Learner:
    """Hold what scores are learned with.

    model    in eval mode, left as it is
    pools    the budgets
    batches  calibration batches, seen in order, those apart that are held out
    light    layers keep nothing for the backward pass but what enters them, and are run again
    """

    model: nn.Module
    arch: Architecture
    pools: Sequence[Pool]
    batches: Sequence[Batch]
    journal: Journal
    light: bool = False

    def learn(self, advance: Callable[[int], None] = lambda _: None) -> Learned:
        """Return the scores that were best on the held-out text."""
        fitted, _ = _parts(self.batches)
        every = max(1, len(fitted) // TESTS)
        with frozen(self.model):
            state = self._recalled(range(len(fitted), -1, -1)) or self._begin(fitted[:START_BATCHES])
            for step in range(len(state.looks), len(fitted) + 1):
                way = (step - 1) / max(1, len(fitted) - 1)
                temperature = _temperature(way)
                loss = self._update(state, fitted[step - 1], temperature, LEARNING_RATE * (1 - way))
                tested = self._test(state) if step % every == 0 or step == len(fitted) else None
                state.looks.append(Look(step, temperature, loss, tested))
                if tested is not None:
                    self._keep(state, step)
                advance(step)
        return self._learned(state)

    def _learned(self, state: _State) -> Learned:
        tenths = torch.linspace(0, 1, 11, dtype=ACCUMULATE)
        layers = [
            LayerScores(pool.space, layer, tuple(scores.quantile(tenths).tolist()))
            for pool, parts in self._by_pool(state.best)
            for layer, scores in zip(pool.layers, parts, strict=True)
        ]
        return Learned(dict(zip(self._paths, state.best.split(self._sizes), strict=True)), layers, state.looks)

    @property
    def _paths(self) -> list[str]:
        return [self.arch.consumer(layer, pool.space).path for pool in self.pools for layer in pool.layers]

    @property
    def _sizes(self) -> list[int]:
        return [size for pool in self.pools for size in pool.sizes]

    def _by_pool(self, scores: Tensor) -> Iterator[tuple[Pool, list[Tensor]]]:
        parts = iter(scores.split(self._sizes))
        for pool in self.pools:
            yield pool, [next(parts) for _ in pool.layers]

    def _begin(self, batches: Sequence[Batch]) -> _State:
        """Start from the logarithm of the Taylor importance, with mean 0 and deviation 1 in each pool."""
        spaces = sorted({pool.space for pool in self.pools})
        importance = taylor_importance(self.model, self.arch, spaces, batches)
        units = [importance[path].view(size, -1).sum(1) for path, size in zip(self._paths, self._sizes, strict=True)]
        logarithms = torch.cat(units).clamp_min(torch.finfo(ACCUMULATE).tiny).log()
        pools = [torch.cat(found) for _, found in self._by_pool(logarithms)]
        scores = torch.cat(
            [(x - x.mean()) / (x.std() if len(x) > 1 else x.new_ones(())).clamp_min(1e-6) for x in pools]
        )
        zeros = torch.zeros_like(scores)
        state = _State(scores, zeros, zeros, scores, math.inf, [])
        state.looks.append(Look(0, TEMPERATURES[0], None, self._test(state)))
        return state

    @torch.enable_grad()
    def _update(self, state: _State, batch: Batch, temperature: float, rate: float) -> float:
        """Take a step on one batch; return its loss."""
        scores = state.scores.detach().requires_grad_()
        soft = [share for pool, part in self._by_pool(scores) for share in pool.shares(part, temperature)]
        loss, gradients = self._divergence([batch], [share.detach().requires_grad_() for share in soft])
        torch.autograd.backward(soft, gradients)
        assert scores.grad is not None
        state.move(scores.grad, rate)
        return loss

    def _test(self, state: _State) -> float:
        """Return the loss of the choice as it would be made now, on held-out text; remember the best scores."""
        _, held_out = _parts(self.batches)
        hard = [mask for pool, part in self._by_pool(state.scores) for mask in pool.choice(part)]
        loss, _ = self._divergence(held_out[:TEST_BATCHES], hard)
        if loss < state.least:
            state.least, state.best = loss, state.scores
        return loss

    def _divergence(self, batches: Sequence[Batch], masks: list[Tensor]) -> tuple[float, list[Tensor]]:
        """Return the nats per token from what the whole model predicts, and the gradients of masks that want one."""
        total, count = 0.0, 0
        for window in single_windows(batches):
            with torch.no_grad():
                expected = predictions(self.model, window)
            with _masked(self.model, dict(zip(self._paths, masks, strict=True))), self._layers():
                with torch.set_grad_enabled(masks[0].requires_grad):
                    found = sum_in_chunks(kl, predictions(self.model, window), expected)
                if found.requires_grad:
                    found.backward()
            total, count = total + float(found.detach()), count + len(expected)
        gradients = [mask.grad / count for mask in masks if mask.grad is not None]
        return total / count, gradients

    @contextmanager
    def _layers(self) -> Iterator[None]:
        """Inside, layers are run again for the backward pass, where memory is short."""
        with ExitStack() as stack:
            for layer in range(self.arch.num_layers if self.light else 0):
                stack.enter_context(_run_again(self.model.get_submodule(self.arch.layer_path(layer))))
            yield

    def _keep(self, state: _State, step: int) -> None:
        tensors = {"scores": state.scores, "mean": state.mean, "square": state.square, "best": state.best.clone()}
        facts = {"least": state.least, "looks": [asdict(look) for look in state.looks]}
        self.journal.keep(f"learned-{step}", facts, tensors)

    def _recalled(self, steps: Iterable[int]) -> _State | None:
        """Return the last state that the journal has."""
        for step in steps:
            entry = self.journal.recall(f"learned-{step}")
            if entry is not None:
                looks = [Look(**look) for look in entry.facts["looks"]]
                return _State(**entry.tensors, least=entry.facts["least"], looks=looks)
        return None


def steps_of(batches: Sequence[Batch]) -> int:
    """Return how many steps scores are learned in: one for each batch that is not held out."""
    return len(_parts(batches)[0])


def _parts(batches: Sequence[Batch]) -> tuple[list[Batch], list[Batch]]:
    """Return the batches to learn from, and those held out."""
    fitted, held_out = divided(len(batches))
    return [batches[b] for b in fitted], [batches[b] for b in held_out]


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


@contextmanager
def _run_again(layer: nn.Module) -> Iterator[None]:
    own = layer.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(own, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    layer.forward = forward
    try:
        yield
    finally:
        del layer.forward
