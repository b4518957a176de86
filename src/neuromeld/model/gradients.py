"""Capture what modules read and what layers add to the stream, with the gradient of the loss by it, token by token."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from neuromeld.model.capture import Batch
from neuromeld.model.passes import own_format
from neuromeld.model.predictions import nll, predictions, sum_in_chunks

OnGradient = Callable[[str, Tensor, Tensor], None]
"""`on_activation(path, x, gradient)`, both `(n, width)`; the gradient of a token of padding is zero."""


def capture_gradients(
    model: nn.Module,
    reads: Sequence[str],
    batches: Sequence[Batch],
    on_activation: OnGradient,
    *,
    adds: Sequence[str] = (),
    advance: Callable[[int], None] = lambda _: None,
) -> int:
    """Run one forward and one backward pass over `batches`; returns how many tokens were predicted.

    reads   modules whose input is watched; the gradient is what comes back through the module alone
    adds    layers of which it is watched what they add to the stream

    The loss is the summed negative log-likelihood, in nats.  All activations of a batch are kept until its backward
    pass; parameters get no gradients.
    """
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    total = 0
    with _hooks(model, reads, adds, seen), frozen(model):
        for done, batch in enumerate(batches, start=1):
            with torch.enable_grad():
                found = predictions(model, batch)
                sum_in_chunks(nll, found).backward()
            total += len(found)
            for path, (x, carrier) in seen.items():
                assert carrier.grad is not None
                on_activation(path, *(own_format(value.flatten(0, -2)) for value in (x, carrier.grad)))
            seen.clear()
            advance(done)
    return total


@contextmanager
def _hooks(
    model: nn.Module, reads: Sequence[str], adds: Sequence[str], seen: dict[str, tuple[Tensor, Tensor]]
) -> Iterator[None]:
    """Keep what is watched, and the tensor whose gradient belongs to it."""

    def read(path: str) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
        def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            # A view of its own, since others may read the same tensor.
            x = args[0].view_as(args[0]) if args[0].requires_grad else args[0].detach().requires_grad_()
            x.retain_grad()
            seen[path] = (x.detach(), x)
            return (x, *args[1:])

        return before

    def added(path: str) -> Callable[..., None]:
        def after(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            entered = args[0] if args else kwargs["hidden_states"]
            left = output[0] if isinstance(output, tuple) else output
            left.retain_grad()
            seen[path] = ((left - entered).detach(), left)

        return after

    handles = [model.get_submodule(path).register_forward_pre_hook(read(path)) for path in reads]
    handles += [model.get_submodule(path).register_forward_hook(added(path), with_kwargs=True) for path in adds]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient inside."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
