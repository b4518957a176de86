"""Measure what a model predicts, with logits of a chunk of predictions at a time.

The logits of 4,096 tokens over a vocabulary of 262,144 are 4 GB in float32, and a backward pass holds them some times
over.  So a model is run up to its head, and the head on chunks; where gradients are wanted, each chunk gives its own.

Suffixes of tensors: n predictions, d what the head reads, v vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from neuromeld.errors import UserInputError
from neuromeld.model.capture import IGNORED, Batch, model_inputs
from neuromeld.model.passes import PassFormat, current_passes, forward_pass, keeping_casts, passes_in
from neuromeld.runtime.streaming import is_streaming

CHUNK_LOGITS = 1 << 24
"""Logits that are held at once: 64 MiB in float32, and some copies of them."""

CARD_CHUNKS = 4
"""So many times as many on a card, which small chunks leave idle, unless its memory is short."""

BLOCK_LOGITS = 1 << 21
"""Logits that are measured at once on a processor: 8 MiB in float32, so that what is made of them stays in its caches
and in memory that the process has already (docs/decisions/0061)."""


@dataclass(frozen=True)
class Predictions:
    """All that is to be predicted in a batch; padding is not.

    hidden_nd  what the head of the model reads for each prediction
    targets_n  the `labels` where a batch has them, else each token of `input_ids` from those before
    head       from rows of `hidden_nd` to their logits, scaled, capped and biased as the model does
    parameters  of the head, where the predictions were made with gradients
    """

    hidden_nd: Tensor
    targets_n: Tensor
    vocab_size: int
    head: Callable[[Tensor], Tensor]
    parameters: Sequence[nn.Parameter] = ()

    def __len__(self) -> int:
        return len(self.targets_n)

    def every(self, step: int) -> "Predictions":
        """Return the first of each `step` predictions."""
        return replace(self, hidden_nd=self.hidden_nd[::step], targets_n=self.targets_n[::step])


def predictions(model: nn.Module, batch: Batch) -> Predictions:
    """Run the model on a batch up to its head.

    The head is run when the predictions are measured: until then, its weights must stay as they are.  Predictions that
    were made without gradients are measured without.
    Raises `UserInputError` for a model that predicts neither the next token nor the labels of the batch.
    """
    inputs = model_inputs(model, batch)
    rest = _Rest(model, inputs)
    read, logits = rest.record()
    if logits is None or not ("labels" in batch or cast(PreTrainedModel, model).can_generate()):
        raise UserInputError(
            f"{type(model).__name__} has no loss on these batches: it predicts no next token, and what it predicts, if "
            "anything, has to be given as labels; where a window of layers is to be chosen by its loss, name it instead"
        )
    hidden = logits if read is None else read  # what has no head over a vocabulary has few logits
    if "labels" in batch:
        targets = batch["labels"].to(logits.device)
        wanted = targets != IGNORED
    else:
        hidden, targets = hidden[:, :-1], inputs["input_ids"][:, 1:]
        if "attention_mask" not in inputs:  # all of it, without asking the device how much that is
            return Predictions(hidden.flatten(0, 1), targets.flatten(), logits.shape[-1], rest, rest.parameters())
        real = inputs["attention_mask"].bool()
        wanted = real[:, 1:] & real[:, :-1]
    return Predictions(hidden[wanted], targets[wanted], logits.shape[-1], rest, rest.parameters())


def measure_in_chunks(measure: Callable[..., Tensor], found: Predictions) -> Tensor:
    """Return `measure(logits_nv, targets_n)` of all predictions, `(n, ...)`, a chunk of them at a time.

    measure  row by row, from logits in float32 or wider

    Memory: `CHUNK_LOGITS` logits, and what `measure` makes of them; without gradients, for which see `sum_in_chunks`.
    """
    with torch.no_grad(), keeping_casts():
        parts = zip(*(x.split(_rows(found)) for x in (found.hidden_nd, found.targets_n)), strict=True)
        blocks = (block for hidden, targets in parts for block in _blocks([found.head(hidden)], targets))
        return torch.cat([measure(*(_wide(logits) for logits in wide), targets) for wide, targets in blocks])


def sum_in_chunks(measure: Callable[..., Tensor], *models: Predictions) -> Tensor:
    """Return the sum of `measure(logits_nv, ..., targets_n)` over all predictions, `()`, a chunk at a time.

    measure  row by row, from the logits of each model, in float32 or wider, and the targets of the first
    models   predictions for the same places, such as of a model and of what it was made of

    Differentiable by what the heads read and by their weights: gradients of a chunk are taken as soon as it is there,
    so logits are computed once and not kept.  Make the predictions of a model that none are to reach under
    `torch.no_grad()`.  Memory: `CHUNK_LOGITS` logits of each model, and what `measure` makes of them.
    """
    heads = dict.fromkeys(parameter for one in models for parameter in one.parameters)
    return cast(Tensor, _Sum.apply(measure, models, *(one.hidden_nd for one in models), *heads))


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, measure: Callable[..., Tensor], models: Sequence[Predictions], *tensors: Tensor) -> Tensor:
        gradients = [torch.zeros_like(x) if x.requires_grad else None for x in tensors]
        hidden, weights = tensors[: len(models)], tensors[len(models) :]
        rows = min(map(_rows, models))
        total = torch.zeros((), dtype=torch.float64, device=hidden[0].device)
        for first in range(0, len(models[0]), rows):
            here = slice(first, first + rows)
            parts = [x[here].detach().requires_grad_(x.requires_grad) for x in hidden]
            places = [x if x is None or k >= len(models) else x[here] for k, x in enumerate(gradients)]
            total += _add_chunk(measure, models, models[0].targets_n[here], parts, weights, places)
        ctx.save_for_backward(*gradients)
        return total.to(torch.promote_types(hidden[0].dtype, torch.float32))

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        return None, None, *(None if x is None else x * outer[0].to(x.dtype) for x in ctx.saved_tensors)


def _add_chunk(
    measure: Callable[..., Tensor],
    models: Sequence[Predictions],
    targets_n: Tensor,
    hidden: Sequence[Tensor],
    weights: Sequence[Tensor],
    places: Sequence[Tensor | None],
) -> Tensor:
    """Add the gradient of a chunk by what the heads read and by their weights to its place; return its sum."""
    with torch.enable_grad(), keeping_casts():
        logits = [one.head(rows) for one, rows in zip(models, hidden, strict=True)]
    value, by_logits = _measured(measure, logits, targets_n)
    if by_logits:
        tensors = zip([*hidden, *weights], places, strict=True)
        wanted = [(x, place) for x, place in tensors if place is not None]
        asking = [x for x in logits if x.requires_grad]
        found = torch.autograd.grad(asking, [x for x, _ in wanted], by_logits, allow_unused=True)
        for gradient, (_, place) in zip(found, wanted, strict=True):
            if gradient is not None:
                place += gradient
    return value


def _measured(
    measure: Callable[..., Tensor], logits: Sequence[Tensor], targets_n: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Return the sum of the measure in float64, and its gradient by the logits that ask for one."""
    gradients = [torch.empty_like(x) for x in logits if x.requires_grad]
    total, first = torch.zeros((), dtype=torch.float64, device=targets_n.device), 0
    for block, targets in _blocks(logits, targets_n):
        leaves = [_wide(x.detach()).requires_grad_(x.requires_grad) for x in block]
        with torch.enable_grad():
            value = measure(*leaves, targets).sum()
        total += value.detach().double()
        if gradients:
            found = torch.autograd.grad(value, [x for x in leaves if x.requires_grad])
            for whole, gradient in zip(gradients, found, strict=True):
                whole[first : first + len(targets)] = gradient
        first += len(targets)
    return total, gradients


def _blocks(logits: Sequence[Tensor], targets_n: Tensor) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
    """Return the logits of each model, and the targets, of so many rows at a time as a processor measures best."""
    vocab_size = max(x.shape[-1] for x in logits)
    rows = max(1, BLOCK_LOGITS // vocab_size if targets_n.device.type == "cpu" else len(targets_n))
    return zip(zip(*(x.split(rows) for x in logits), strict=True), targets_n.split(rows), strict=True)


def _rows(found: Predictions) -> int:
    idle = found.hidden_nd.device.type == "cuda" and not is_streaming()
    logits = CHUNK_LOGITS * (CARD_CHUNKS if idle else 1)
    return max(1, logits // found.vocab_size)


def nll(logits_nv: Tensor, targets_n: Tensor) -> Tensor:
    """Return the negative log-likelihood of each target, `(n,)`: a measure of one model."""
    return F.cross_entropy(logits_nv, targets_n, reduction="none")


def kl(logits_nv: Tensor, expected_nv: Tensor, _: Tensor | None = None, temperature: float = 1.0) -> Tensor:
    """Return `KL(expected || found)` of each row, `(n,)`, of logits divided by the temperature: a measure of two."""
    found, expected = (F.log_softmax(logits / temperature, dim=-1) for logits in (logits_nv, expected_nv))
    return F.kl_div(found, expected, log_target=True, reduction="none").sum(-1)


@dataclass
class _Rest:
    """Run what a model computes from what its head reads, for any rows of that.

    What families do to logits (a scale, a cap, a bias) is in their forward passes.  So those are run again, in which
    everything but the head gives what it gave before, and the head reads the rows.

    returned     what the modules gave that a forward pass calls itself, and not through one another
    beside_head  modules that hooks of the head call
    """

    model: nn.Module
    inputs: dict[str, Any]
    returned: dict[nn.Module, list[Any]] = field(default_factory=dict)
    beside_head: list[nn.Module] = field(default_factory=list)
    grad: bool = True
    passes: PassFormat = "own"

    def record(self) -> tuple[Tensor | None, Tensor | None]:
        """Run the model; return what the head reads, and logits of the first place; None for each that there is not."""
        self.grad, self.passes = torch.is_grad_enabled(), current_passes()
        read: list[Tensor] = []
        running: list[nn.Module] = []

        def first_place(head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            read.append(args[0])
            running.append(head)  # what its hooks call, as an adapter, belongs to it
            return (args[0][:1, :1], *args[1:])

        def head_done(*_: Any) -> None:
            running.pop()

        def begin(module: nn.Module, _: Any) -> None:
            if head in running:
                self.beside_head.append(module)
            running.append(module)

        def end(module: nn.Module, _: Any, output: Any) -> None:
            running.pop()
            if not running:
                self.returned.setdefault(module, []).append(output)

        head = self._head()
        with ExitStack() as hooks:
            if head is not None:
                hooks.callback(head.register_forward_pre_hook(first_place, prepend=True).remove)
                hooks.callback(head.register_forward_hook(head_done).remove)
                for module in self._beside(head):
                    hooks.callback(module.register_forward_pre_hook(begin).remove)
                    hooks.callback(module.register_forward_hook(end).remove)
            hooks.enter_context(forward_pass())
            output = self.model(**self.inputs)
        return (read[0] if read else None), (output.logits if "logits" in output else None)

    def __call__(self, hidden_nd: Tensor) -> Tensor:
        """Return the logits of rows that the head reads."""
        head = self._head()
        if head is None:
            return hidden_nd
        with ExitStack() as stack:
            stack.enter_context(torch.set_grad_enabled(self.grad and torch.is_grad_enabled()))
            hook = head.register_forward_pre_hook(lambda _, args: (hidden_nd[None], *args[1:]), prepend=True)
            stack.callback(hook.remove)
            for module, outputs in self.returned.items():
                stack.enter_context(_returning(module, outputs))
            stack.enter_context(passes_in(self.passes, self.model))  # a backward pass may be in another thread
            stack.enter_context(forward_pass(keep_casts=True))
            logits: Tensor = self.model(**self.inputs).logits
        return logits.flatten(0, 1)

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the head that ask for gradients, if it was run with them."""
        head = self._head()
        modules = [] if head is None or not self.grad else [head, *self.beside_head]
        return [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]

    def _head(self) -> nn.Module | None:
        found: nn.Module | None = cast(PreTrainedModel, self.model).get_output_embeddings()
        return found

    def _beside(self, head: nn.Module) -> Iterator[nn.Module]:
        """Return all modules but the head and those that it is in."""
        path = next(name for name, module in self.model.named_modules() if module is head)
        return (module for name, module in self.model.named_modules() if name and not f"{path}.".startswith(f"{name}."))


@contextmanager
def _returning(module: nn.Module, outputs: list[Any]) -> Iterator[None]:
    """Let the module give these outputs, one a call, and compute nothing."""
    remaining, own = iter(outputs), module.__dict__.get("forward")
    module.forward = lambda *_, **__: next(remaining)
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


def measuring_bytes(vocab_size: int, num: int, itemsize: int, *, backward: bool = False) -> int:
    """Predict the memory for measuring `num` predictions of a model whose logits have `itemsize` bytes: logits as they
    come, in float32 and their softmax; in a backward pass the gradients of these.
    """
    return min(CHUNK_LOGITS, num * vocab_size) * (itemsize + (16 if backward else 8))


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
