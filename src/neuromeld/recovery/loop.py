"""The training itself: AdamW on batches drawn without replacement, with looks at held-out data on the way.

The weights that were best there are the result, those from before the training among them.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.utils.deterministic
from torch import Tensor, nn

from neuromeld.errors import NumericsError
from neuromeld.modalities import TrainingSet
from neuromeld.model.capture import Batch
from neuromeld.recovery.held_out import HELD_OUT_TOKENS
from neuromeld.recovery.ranks import average, own_part, told_by_first
from neuromeld.recovery.schedule import rate_of
from neuromeld.recovery.settings import Recovery
from neuromeld.recovery.sharding import Part, take_gradients
from neuromeld.recovery.state import State, keep_state, recalled_state
from neuromeld.runtime.journal import Journal
from neuromeld.runtime.progress import Advance

LOG_POINTS = 50
"""Points of the loss curve, at least, and at most one every `LONGEST_LOG` updates."""
LONGEST_LOG = 100

LOOKS = 10
"""At held-out data, at most."""
LOOK_TOKENS = 2 * HELD_OUT_TOKENS
"""Trained on between two looks, at least: a look reads half as many, and only forward."""

CHECKPOINT_SECONDS = 300.0
"""Between two times that the state is kept, at least."""

LossOf = Callable[[Batch], Tensor]
"""The mean loss of a batch on the device, `()`, with gradients."""


@dataclass(frozen=True)
class Look:
    """The mean loss on held-out data after so many updates, in nats per prediction."""

    step: int
    loss: float


@dataclass(frozen=True)
class Trained:
    """Tell what a training did.

    curve  mean losses of the updates up to each `step`
    looks  from before the training on
    best   the look whose weights the model has now
    steps  that were done; fewer than asked where held-out data said to stop
    """

    curve: list[dict[str, float]]
    looks: list[Look]
    best: Look
    steps: int
    resumed_from: int
    tokens_per_second: float | None


@dataclass(frozen=True)
class Training:
    """One training, from the weights that the model has.

    settings  with the number of `steps`
    look      measure the model on held-out data, in nats per prediction
    start     what `look` gives before the training, where that is known
    name      of the state in the journal
    """

    model: nn.Module
    loss_of: LossOf
    pool: TrainingSet
    settings: Recovery
    device: torch.device
    look: Callable[[], float]
    journal: Journal
    start: float | None = None
    name: str = "training"

    def run(self, advance: Advance) -> Trained:
        """Train the model in place; `NumericsError` at a loss that is not finite."""
        with repeatable(self.device):
            return _Run(self).run(advance)

    @property
    def steps(self) -> int:
        assert self.settings.steps is not None
        return self.settings.steps

    @property
    def tokens_of_update(self) -> float:
        return self.settings.batch_examples(self.pool) * self.pool.num_tokens / self.pool.num_examples

    @property
    def least_between(self) -> int:
        """Updates between two looks, at least."""
        return max(1, int(LOOK_TOKENS // self.tokens_of_update))

    def looks_after(self) -> set[int]:
        """Return the updates behind which held-out data is looked at; the last is one of them."""
        between = max(-(-self.steps // LOOKS), self.least_between)
        return {*range(between, self.steps, between), self.steps}


@dataclass
class _Run:
    """A training under way: `pending` has the losses since the last point of the curve, on the device."""

    of: Training
    pending: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        of = self.of
        self.parts = trained_parts(of.model)
        self.trained = {name: part.own for name, part in self.parts.items()}
        self.optimizer = optimizer_of(self.parts)
        self.order = drawn_order(of.pool.num_examples, of.steps * of.settings.batch_examples(of.pool), of.settings.seed)
        self.every = max(1, min(of.steps // LOG_POINTS, LONGEST_LOG))

    def run(self, advance: Advance) -> Trained:
        of = self.of
        of.model.train()
        self.state = recalled_state(of.journal, of.name, self.parts, self.optimizer) or self._begun()
        first, looks, begun, looking = self.state.step, of.looks_after(), time.monotonic(), 0.0
        kept = begun
        for step in range(first + 1, of.steps + 1):
            if self._is_stopped():
                break
            self._update(step)
            advance(step)
            if step % self.every == 0 or step in looks:
                self._log(step)
            if step in looks:
                before = time.monotonic()
                self._look(step)
                looking += time.monotonic() - before
            if not self.pending and step < of.steps and self._is_due(kept):
                keep_state(of.journal, of.name, self.state, self.parts, self.optimizer)
                kept = time.monotonic()
        done, seconds = self.state.step - first, time.monotonic() - begun - looking
        self._take_best()
        looks_done = [Look(**look) for look in self.state.looks]
        best = min(looks_done, key=lambda look: look.loss)
        speed = done * of.tokens_of_update / seconds if done else None
        return Trained(self.state.curve, looks_done, best, self.state.step, first, speed)

    def _begun(self) -> State:
        torch.manual_seed(self.of.settings.seed)
        start = self.of.look() if self.of.start is None else self.of.start
        return State(0, [], [asdict(Look(0, start))], self._copy())

    def _is_stopped(self) -> bool:
        """Tell whether held-out data has been looked at `patience` times without a lower loss."""
        losses = [look["loss"] for look in self.state.looks]
        return len(losses) - 1 - losses.index(min(losses)) >= self.of.settings.patience

    def _is_due(self, kept: float) -> bool:
        """Tell whether the state is to be kept; of a state in parts, all processes do that together."""
        due = time.monotonic() - kept >= CHECKPOINT_SECONDS
        return told_by_first(lambda: due) if any(part.is_sharded for part in self.parts.values()) else due

    def _update(self, step: int) -> None:
        """Do one update, without waiting for the device."""
        of, settings = self.of, self.of.settings
        size = settings.batch_examples(of.pool)
        numbers = own_part(self.order[(step - 1) * size : step * size].tolist())
        part = len(numbers) // settings.accumulate
        losses = []
        for place in range(0, len(numbers), part):
            with torch.enable_grad():
                loss = of.loss_of(on_device(of.pool.batch_of(numbers[place : place + part]), of.device))
                (loss / settings.accumulate).backward()
            losses.append(loss.detach())
        take_gradients(self.parts.values(), settings.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = rate_of(settings, step - 1)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.pending.append(torch.stack(losses).mean())

    def _log(self, step: int) -> None:
        """Add a point to the curve."""
        means = torch.stack(self.pending)
        average([means])
        losses = means.tolist()
        self.pending.clear()
        for update, loss in enumerate(losses, start=step - len(losses) + 1):
            if not abs(loss) < float("inf"):
                raise NumericsError(self._advice(loss, update))
        self.state.step = step
        self.state.curve.append({"step": step, "loss": sum(losses) / len(losses)})

    def _look(self, step: int) -> None:
        loss = self.of.look()
        if loss < min(look["loss"] for look in self.state.looks):
            self.state.best = self._copy()
        self.state.looks.append(asdict(Look(step, loss)))

    def _copy(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.trained.items()}

    @torch.no_grad()
    def _take_best(self) -> None:
        for name, parameter in self.trained.items():
            parameter.copy_(self.state.best[name])

    def _advice(self, loss: float, step: int) -> str:
        settings = self.of.settings
        return (
            f"the loss is {loss} at step {step} of {settings.steps}; nothing was written. Lower --learning-rate (now "
            f"{settings.learning_rate:g}), raise --warmup (now {settings.warmup:g}), "
            f"{'' if settings.lora_rank else 'train fewer parameters (--lora), '}and prefer bfloat16 to float16 for "
            "the model; the checkpoints of this run were discarded"
        )


def trained_parts(model: nn.Module) -> dict[str, Part]:
    """Return what the optimizer has of each parameter that is trained, by name."""
    return {name: Part.of(p) for name, p in model.named_parameters() if p.requires_grad}


def optimizer_of(parts: Mapping[str, Part]) -> torch.optim.AdamW:
    """Return an optimizer that leaves everything as it is until it is given a rate."""
    return torch.optim.AdamW([part.own for part in parts.values()], lr=0.0, weight_decay=0.0, fused=True)


def drawn_order(num_examples: int, num: int, seed: int) -> Tensor:
    """Return `num` numbers of examples, drawn without replacement until all were seen, and again in another order."""
    draw = torch.Generator().manual_seed(seed)
    rounds = -(-num // num_examples)
    return torch.cat([torch.randperm(num_examples, generator=draw) for _ in range(rounds)])[:num]


def on_device(batch: Batch, device: torch.device) -> Mapping[str, Tensor]:
    """Return a batch on the device, on its way there while the processor goes on."""
    if device.type == "cpu":
        return batch
    return {name: value.pin_memory().to(device, non_blocking=True) for name, value in batch.items()}


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Let a card add in the same order each time, where it can; a processor does anyway."""
    if device.type != "cuda":
        yield
        return
    memory: Any = torch.utils.deterministic
    before, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fills, memory.fill_uninitialized_memory = memory.fill_uninitialized_memory, False
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)
        memory.fill_uninitialized_memory = fills
