"""Capture what modules read and what layers add to the stream, with the gradient of the loss by it, token by token."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from neuromeld.model.capture import Batch
from neuromeld.model.passes import current_passes, own_format
from neuromeld.model.predictions import nll, predictions, sum_in_chunks
from neuromeld.runtime.paging import drop_pages

OnGradient = Callable[[str, Tensor, Tensor], None]
"""`on_activation(path, x, gradient)`, both `(n, width)`; the gradient of a token of padding is zero."""


def capture_gradients(
    model: nn.Module,
    reads: Sequence[str],
    batches: Sequence[Batch],
    on_activation: OnGradient,
    *,
    adds: Sequence[str] = (),
    light: Sequence[str] = (),
    advance: Callable[[int], None] = lambda _: None,
) -> int:
    """Run one forward and one backward pass over `batches`; returns how many tokens were predicted.

    reads   modules whose input is watched; the gradient is what comes back through the module alone
    adds    layers of which it is watched what they add to the stream
    light   layers that keep nothing but what enters them, and are run again for the backward pass

    The loss is the summed negative log-likelihood, in nats.  All activations of a batch are kept until its backward
    pass, but for those in light layers; parameters get no gradients.
    """
    total = 0
    seen: dict[str, Tensor] = {}
    with ExitStack() as stack:
        stack.enter_context(_hooks(model, reads, adds, seen, on_activation))
        stack.enter_context(frozen(model))
        for path in light:
            inside = [read for read in reads if read.startswith(f"{path}.")]
            stack.enter_context(run_again(model.get_submodule(path), partial(_forget, seen, inside)))
        for done, batch in enumerate(batches, start=1):
            with torch.enable_grad():
                found = predictions(model, batch)
                sum_in_chunks(nll, found).backward()
            assert not seen, f"no gradient came back to {', '.join(seen)}"
            total += len(found)
            advance(done)
    return total


@contextmanager
def _hooks(
    model: nn.Module, reads: Sequence[str], adds: Sequence[str], seen: dict[str, Tensor], on_activation: OnGradient
) -> Iterator[None]:
    """Keep in `seen` what is watched until its gradient is there, and tell both."""
    own = partial(own_format, passes=current_passes())  # a backward pass may be in another thread

    def tell(path: str, gradient: Tensor) -> None:
        on_activation(path, *(own(value.flatten(0, -2)) for value in (seen.pop(path), gradient)))

    def read(path: str) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
        def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            # A view of its own, since others may read the same tensor.
            x = args[0].view_as(args[0]) if args[0].requires_grad else args[0].detach().requires_grad_()
            seen[path] = x.detach()
            x.register_hook(partial(tell, path))
            return (x, *args[1:])

        return before

    def added(path: str) -> Callable[..., None]:
        def after(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            left = output[0] if isinstance(output, tuple) else output
            seen[path] = (left - _entered(args, kwargs)).detach()
            left.register_hook(partial(tell, path))

        return after

    handles = [model.get_submodule(path).register_forward_pre_hook(read(path)) for path in reads]
    handles += [model.get_submodule(path).register_forward_hook(added(path), with_kwargs=True) for path in adds]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _entered(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return the stream that a layer is called with."""
    stream: Tensor = args[0] if args else kwargs["hidden_states"]
    return stream


def _forget(seen: dict[str, Tensor], paths: Sequence[str]) -> None:
    for path in paths:
        seen.pop(path, None)


@contextmanager
def run_again(layer: nn.Module, done: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Inside, a layer keeps nothing for a backward pass but what enters it, and is run again there.

    done   told when it was run for the first time
    """
    own = layer.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        entered = _entered(args, kwargs)
        if entered.requires_grad:
            entered.register_hook(lambda _: drop_pages(layer.parameters()))
        output = checkpoint(own, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
        done()
        return output

    layer.forward = forward
    try:
        yield
    finally:
        del layer.forward


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
