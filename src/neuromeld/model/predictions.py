"""What a model predicts, and measures of it, with logits of a chunk of predictions at a time.

The logits of 4,096 tokens over a vocabulary of 262,144 are 4 GB in float32, and a backward pass holds them some times
over.  So a model is run up to its head, and the head on chunks; a backward pass computes the logits of a chunk again.

Suffixes of tensors: n predictions, d what the head reads, v vocabulary.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from neuromeld.errors import UserInputError
from neuromeld.model.capture import IGNORED, Batch, model_inputs
from neuromeld.model.passes import PassFormat, current_passes, forward_pass, keeping_casts, passes_in

CHUNK_LOGITS = 1 << 24
"""Logits that are held at once: 64 MiB in float32, and some copies of them."""


@dataclass(frozen=True)
class Predictions:
    """All that is to be predicted in a batch; padding is not.

    hidden_nd  what the head of the model reads for each prediction
    targets_n  the `labels` where a batch has them, else each token of `input_ids` from those before
    head       from rows of `hidden_nd` to their logits, scaled, capped and biased as the model does
    """

    hidden_nd: Tensor
    targets_n: Tensor
    vocab_size: int
    head: Callable[[Tensor], Tensor]

    def __len__(self) -> int:
        return len(self.targets_n)


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
        ids = inputs["input_ids"]
        real = inputs.get("attention_mask", torch.ones_like(ids)).bool()
        hidden, targets = hidden[:, :-1], ids[:, 1:]
        wanted = real[:, 1:] & real[:, :-1]
    return Predictions(hidden[wanted], targets[wanted], logits.shape[-1], rest)


def measure_in_chunks(measure: Callable[..., Tensor], *models: Predictions) -> Tensor:
    """Return `measure(logits_nv, ..., targets_n)` of all predictions, `(n, ...)`, a chunk of them at a time.

    measure  row by row, from the logits of each model, in float32 or wider, and the targets of the first
    models   predictions for the same places, such as of a model and of what it was made of

    Differentiable by what the heads read and by their weights.  Memory: `CHUNK_LOGITS` logits of each model, and what
    `measure` makes of them.
    """

    def part(*given: Tensor) -> Tensor:
        *hidden, targets = given
        return measure(*(_wide(one.head(rows)) for one, rows in zip(models, hidden, strict=True)), targets)

    rows = max(1, CHUNK_LOGITS // max(one.vocab_size for one in models))
    chunks = zip(*(one.hidden_nd.split(rows) for one in models), models[0].targets_n.split(rows), strict=True)
    with keeping_casts():
        return torch.cat([checkpoint(part, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks])


def losses(found: Predictions) -> Tensor:
    """Return the negative log-likelihood of each target, `(n,)`, in nats."""
    return measure_in_chunks(nll, found)


def divergences(found: Predictions, expected: Predictions, temperature: float = 1.0) -> Tensor:
    """Return `KL(expected || found)` of each prediction, `(n,)`, in nats, both softened by the temperature.

    Make `expected` under `torch.no_grad()` where no gradient is to go into it: it may be kept, at the memory of its
    hidden states.
    """
    return measure_in_chunks(lambda logits, other, _: kl(logits, other, temperature), found, expected)


def nll(logits_nv: Tensor, targets_n: Tensor) -> Tensor:
    """Return the negative log-likelihood of each target, `(n,)`: a measure of one model."""
    return F.cross_entropy(logits_nv, targets_n, reduction="none")


def kl(logits_nv: Tensor, expected_nv: Tensor, temperature: float) -> Tensor:
    """Return `KL(expected || found)` of each row, `(n,)`, of logits divided by the temperature."""
    found, expected = (F.log_softmax(logits / temperature, dim=-1) for logits in (logits_nv, expected_nv))
    return F.kl_div(found, expected, log_target=True, reduction="none").sum(-1)


@dataclass
class _Rest:
    """Run what a model computes from what its head reads, for any rows of that.

    What families do to logits (a scale, a cap, a bias) is in their forward passes.  So those are run again, in which
    everything but the head gives what it gave before, and the head reads the rows.

    returned  what the modules gave that a forward pass calls itself, and not through one another
    """

    model: nn.Module
    inputs: dict[str, Any]
    returned: dict[nn.Module, list[Any]] = field(default_factory=dict)
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
        return logits[0]

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
