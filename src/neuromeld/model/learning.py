"""Learn a few numbers of a model whose weights are frozen: its predictions are to stay near the whole model's.

What is learned says how the model is changed by its numbers, softly where that is a choice.  The loss is the divergence
from the predictions of the whole model, Adam moves the numbers, and the text is seen once, since numbers overfit
(docs/decisions/0032).  Held-out text is looked at on the way, and the numbers that were best there are taken.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from neuromeld.archs.resolve import Architecture
from neuromeld.model.capture import Batch, backward_batches
from neuromeld.model.gradients import frozen, run_again
from neuromeld.model.predictions import kl, predictions, sum_in_chunks
from neuromeld.runtime.distributed import own_rows, sum_tensor
from neuromeld.runtime.journal import Journal
from neuromeld.shapes import ACCUMULATE
from neuromeld.stats.split import divided

TESTS = 8
"""How often the held-out text is looked at on the way."""

START_BATCHES = TEST_BATCHES = 2
"""Batches that numbers start from, and held-out ones that they are tested on."""


@dataclass(frozen=True)
class Look:
    """The learning at one step, in nats per token from the whole model's predictions.

    loss      of the model as it was trained, on the text of the step; None before the first
    held_out  of the model as it would be made now, on held-out text; None where that was not looked at
    """

    step: int
    loss: float | None
    held_out: float | None


@dataclass(frozen=True)
class Teacher:
    """A model, changed for a while, and the one that it is to predict alike.

    model  in eval mode, left as it is
    whole  what is predicted alike: the model itself, unchanged, or the one that it was made of
    arch   of the model
    light  layers keep nothing for the backward pass but what enters them, and are run again
    """

    model: nn.Module
    whole: nn.Module
    arch: Architecture
    light: bool = False

    def divergence(
        self,
        batches: Sequence[Batch],
        changed: Callable[[], AbstractContextManager[None]],
        leaves: Sequence[Tensor] = (),
    ) -> tuple[float, list[Tensor]]:
        """Return the nats per token from what the whole model predicts, and the gradients by the leaves.

        batches  that every process has: each takes a part, and sums are added over all of them
        changed  inside it, the model is changed by the leaves
        """
        total, count = 0.0, 0
        for window in backward_batches(self.model, own_rows(batches)):
            with torch.no_grad():
                expected = predictions(self.whole, window)
            with changed(), self._layers(), torch.set_grad_enabled(bool(leaves)):
                found = sum_in_chunks(kl, predictions(self.model, window), expected)
                if leaves:
                    found.backward()
            total, count = total + float(found.detach()), count + len(expected)
        total, count = sum_tensor(torch.tensor([total, count], dtype=ACCUMULATE)).tolist()
        gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
        return total / count, [sum_tensor(gradient) / count for gradient in gradients]

    @contextmanager
    def _layers(self) -> Iterator[None]:
        """Inside, layers are run again for the backward pass, where memory is short."""
        with ExitStack() as stack:
            for layer in range(self.arch.num_layers if self.light else 0):
                stack.enter_context(run_again(self.model.get_submodule(self.arch.layer_path(layer))))
            yield


class Learnable(Protocol):
    """Numbers of a model that can be learned.

    name  of the steps in a journal
    rate  the learning rate at the first step; it falls to 0 in a line
    """

    @property
    def name(self) -> str: ...
    @property
    def rate(self) -> float: ...

    def begin(self, batches: Sequence[Batch]) -> Tensor:
        """Return the numbers to start from, float64."""

    def gradient(self, numbers: Tensor, batch: Batch, way: float) -> tuple[float, Tensor]:
        """Return the loss on a batch after this share of the way, and its gradient."""

    def test(self, numbers: Tensor, batches: Sequence[Batch]) -> float:
        """Return the loss of the model as it would be made now."""


@dataclass
class _State:
    """The learning after a step: the numbers, the moments of Adam, and the best numbers so far."""

    numbers: Tensor
    mean: Tensor
    square: Tensor
    best: Tensor
    least: float
    looks: list[Look]

    def move(self, gradient: Tensor, rate: float) -> None:
        """Move the numbers by Adam (arXiv:1412.6980), with its usual constants."""
        step = len(self.looks)
        self.mean = 0.9 * self.mean + 0.1 * gradient
        self.square = 0.999 * self.square + 0.001 * gradient.square()
        size = (self.square / (1 - 0.999**step)).sqrt() + 1e-8
        self.numbers = self.numbers - rate * self.mean / (1 - 0.9**step) / size

    def keep(self, name: str, journal: Journal) -> None:
        """Keep it in the journal."""
        tensors = {"numbers": self.numbers, "mean": self.mean, "square": self.square, "best": self.best.clone()}
        facts = {"least": self.least, "looks": [asdict(look) for look in self.looks]}
        journal.keep(f"{name}-{len(self.looks) - 1}", facts, tensors)


def learn(
    what: Learnable,
    model: nn.Module,
    batches: Sequence[Batch],
    journal: Journal,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[Tensor, list[Look]]:
    """Return the numbers that were best on held-out text, and how they came about.

    batches  all there are, seen in order, a step each, those apart that are held out
    journal  keeps the state after each look, from which an interrupted job goes on with the same result
    """
    fitted, held_out = _parts(batches)
    every = max(1, len(fitted) // TESTS)

    def test(numbers: Tensor) -> float:
        return what.test(numbers, held_out[:TEST_BATCHES])

    with frozen(model):
        state = _recalled(what.name, journal, len(fitted))
        if state is None:
            start = what.begin(fitted[:START_BATCHES])
            zeros, loss = torch.zeros_like(start), test(start)
            state = _State(start, zeros, zeros, start, loss, [Look(0, None, loss)])
        for step in range(len(state.looks), len(fitted) + 1):
            way = (step - 1) / max(1, len(fitted) - 1)
            loss, gradient = what.gradient(state.numbers, fitted[step - 1], way)
            state.move(gradient, what.rate * (1 - way))
            tested = test(state.numbers) if step % every == 0 or step == len(fitted) else None
            state.looks.append(Look(step, loss, tested))
            if tested is not None:
                if tested < state.least:
                    state.least, state.best = tested, state.numbers
                state.keep(what.name, journal)
            advance(step)
    return state.best, state.looks


def steps_of(batches: Sequence[Batch]) -> int:
    """Return how many steps numbers are learned in: one for each batch that is not held out."""
    return len(_parts(batches)[0])


def _parts(batches: Sequence[Batch]) -> tuple[list[Batch], list[Batch]]:
    """Return the batches to learn from, and those held out."""
    fitted, held_out = divided(len(batches))
    return [batches[b] for b in fitted], [batches[b] for b in held_out]


def _recalled(name: str, journal: Journal, steps: int) -> _State | None:
    """Return the last state that the journal has."""
    for step in range(steps, -1, -1):
        entry = journal.recall(f"{name}-{step}")
        if entry is not None:
            looks = [Look(**look) for look in entry.facts["looks"]]
            return _State(**entry.tensors, least=entry.facts["least"], looks=looks)
    return None
