"""The residual stream on calibration data: watched in one pass, or carried through the model a layer at a time.

A *batch* is what the model is called with, such as `input_ids` and, where there is padding, `attention_mask`, and
`labels`.  Only real tokens reach a statistic.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from neuromeld.archs.resolve import Architecture
from neuromeld.archs.spec import Norm
from neuromeld.errors import NumericsError
from neuromeld.model.passes import forward_pass, own_format
from neuromeld.runtime.streaming import device_of, is_streaming, on_device

Batch = Mapping[str, Tensor]

IGNORED = -100
"""The label of what is not to be predicted, as everywhere in transformers."""


T = TypeVar("T")


def advancing(items: Iterable[T], advance: Callable[[int], None]) -> Iterator[T]:
    """Yield the items, and tell `advance` how many are done."""
    for done, item in enumerate(items, start=1):
        yield item
        advance(done)


def backward_batches(model: nn.Module, batches: Iterable[Batch]) -> list[Batch]:
    """Return the batches as backward passes take them: a window at a time, so that all activations are those of one.

    A card takes whole batches: single windows would leave it idle.  Not where its memory is short.
    """
    if device_of(model).type != "cpu" and not is_streaming():
        return list(batches)
    return [
        {name: value[row : row + 1] for name, value in batch.items()}
        for batch in batches
        for row in range(len(next(iter(batch.values()))))
    ]


class _Stop(Exception):
    """Raised by a hook once the value it waits for has been seen."""


def real_tokens(x: Tensor, batch: Batch, mask_key: str | None = "attention_mask") -> Tensor:
    """Return the rows of `x`, `(batch, time, d)` or `(batch * time, d)`, that are not padding, as `(n, d)`."""
    rows = x.reshape(-1, x.shape[-1])
    mask = None if mask_key is None else batch.get(mask_key)
    return rows if mask is None else rows[mask.flatten().to(x.device).bool()]


def channels_last(module: nn.Module, x: Tensor) -> Tensor:
    """Return what a module reads or writes with the channels on the last axis; those of convolutions are the second."""
    return x.movedim(1, -1) if isinstance(module, nn.Conv2d) else x


def capture_residual_reads(
    model: nn.Module,
    arch: Architecture,
    batches: Iterable[Batch],
    on_activation: Callable[[str, Tensor], None],
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Run the model to its final norm; call `on_activation(path, x)` with what each norm reads, `(n, d)`."""
    _capture(
        model, arch, [norm.path for norm in arch.residual_reads], "reads", advancing(batches, advance), on_activation
    )


def capture_outputs(
    model: nn.Module,
    arch: Architecture,
    paths: Sequence[str],
    batches: Iterable[Batch],
    on_activation: Callable[[str, Tensor], None],
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Run the model and call `on_activation(path, y)` with what each module writes, `(n, width)`.

    `paths` are in the order of execution: nothing behind the last is computed.
    """
    _capture(model, arch, paths, "writes", advancing(batches, advance), on_activation)


def capture_inputs(
    model: nn.Module,
    arch: Architecture,
    paths: Sequence[str],
    batches: Iterable[Batch],
    on_activation: Callable[[str, Tensor], None],
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Run the model and call `on_activation(path, x)` with what each module reads, `(n, width)`.

    `paths` are in the order of execution: nothing behind the last is computed.
    """
    _capture(model, arch, paths, "reads", advancing(batches, advance), on_activation)


@torch.no_grad()
def _capture(
    model: nn.Module,
    arch: Architecture,
    paths: Sequence[str],
    side: Literal["reads", "writes"],
    batches: Iterable[Batch],
    on_activation: Callable[[str, Tensor], None],
) -> None:
    batch: Batch = {}

    def hook(path: str) -> Callable[..., None]:
        mask = arch.mask(path)

        def called(module: nn.Module, args: tuple[Any, ...], *output: Tensor) -> None:
            x = own_format(real_tokens(channels_last(module, output[0] if output else args[0]), batch, mask))
            if not torch.isfinite(x).all():
                raise NumericsError(
                    f"the activations that {path} {side} hold NaN or infinity; if the model runs in float16, use "
                    "--dtype bfloat16 or float32"
                )
            on_activation(path, x)
            if path == paths[-1]:
                raise _Stop

        return called

    handles = []
    for path in paths:
        module = model.get_submodule(path)
        register = module.register_forward_pre_hook if side == "reads" else module.register_forward_hook
        handles.append(register(hook(path)))
    try:
        for batch in batches:
            _run(model, batch)
    finally:
        for handle in handles:
            handle.remove()


@dataclass
class LayerCalls:
    """How the model calls the layers of one stack on each batch, so that one layer can be called on its own.

    `first` is the number of its first layer.  `hidden[b]` is the stream that enters that, `(batch, time, d)`;
    `arguments[b][i]` are the other arguments of its i-th layer.
    """

    first: int
    batches: Sequence[Batch]
    hidden: list[Tensor]
    arguments: list[list[tuple[tuple[Any, ...], dict[str, Any]]]]

    @torch.no_grad()
    def run(self, layer: nn.Module, index: int, batch: int, hidden: Tensor) -> Tensor:
        """Return the stream that leaves `layer` when `hidden` enters it."""
        return self.differentiable(layer, index, batch, hidden)

    def differentiable(self, layer: nn.Module, index: int, batch: int, hidden: Tensor) -> Tensor:
        """Return the same, with gradients where they are enabled."""
        args, kwargs = self.arguments[batch][index - self.first]
        with forward_pass():
            output = layer(on_device(hidden), *args, **kwargs)
        return own_format(output[0] if isinstance(output, tuple) else output)

    @torch.no_grad()
    def run_until(self, layer: nn.Module, index: int, batch: int, hidden: Tensor, module: nn.Module) -> Tensor:
        """Return what `module`, a submodule of `layer`, reads; nothing behind it is computed."""
        return self.call_of(layer, index, batch, hidden, module)[0]

    @torch.no_grad()
    def call_of(
        self, layer: nn.Module, index: int, batch: int, hidden: Tensor, module: nn.Module
    ) -> tuple[Tensor, ...]:
        """Return what `module`, a submodule of `layer`, is called with."""
        seen: list[tuple[Tensor, ...]] = []

        def before(module: nn.Module, args: tuple[Any, ...]) -> None:
            seen.append(tuple(channels_last(module, own_format(x)) for x in args))
            raise _Stop

        handle = module.register_forward_pre_hook(before)
        try:
            with suppress(_Stop):
                self.run(layer, index, batch, hidden)
        finally:
            handle.remove()
        return seen[0]


@torch.no_grad()
def record_calls(
    model: nn.Module,
    arch: Architecture,
    batches: Sequence[Batch],
    stack: int = 0,
    offload: Callable[[Tensor], Tensor] = lambda x: x,
) -> LayerCalls:
    """Run the model with the layers of one stack short-circuited and keep what each would have been called with.

    hold   where the stream is to lie
    """
    first, depth = arch.stack_offsets[stack], arch.depths[stack]
    calls = LayerCalls(first, batches, [], [])
    layers = [model.get_submodule(arch.layer_path(i)) for i in range(first, first + depth)]
    with _short_circuit(layers, calls, offload):
        for batch in batches:
            calls.arguments.append([])
            _run(model, batch)
    return calls


@contextmanager
def _short_circuit(
    layers: Sequence[nn.Module], calls: LayerCalls, offload: Callable[[Tensor], Tensor]
) -> Iterator[None]:
    # Whether a layer returns a tensor or a tuple, and what else is in it, differs between families: the first one runs.
    returned: list[Any] = [None]

    def recorder(layer: nn.Module) -> Callable[..., Any]:
        original = layer.forward

        def forward(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            if layer is layers[0]:
                calls.hidden.append(offload(own_format(hidden)))
                returned[0] = original(hidden, *args, **kwargs)
            calls.arguments[-1].append((args, kwargs))
            if layer is layers[-1]:
                raise _Stop
            return (hidden, *returned[0][1:]) if isinstance(returned[0], tuple) else hidden

        return forward

    for layer in layers:
        layer.forward = recorder(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def norm_epsilon(module: nn.Module) -> float:
    """Return the epsilon of a LayerNorm or of transformers' RMSNorms."""
    return float(module.eps if hasattr(module, "eps") else module.variance_epsilon)  # type: ignore[arg-type]


def normalise(x: Tensor, norm: Norm, module: nn.Module) -> Tensor:
    """Compute what the norm does before its gain and bias, in float32 or wider."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if norm.kind == "layer":
        x = x - x.mean(-1, keepdim=True)
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm_epsilon(module))


def without_cache(model: nn.Module) -> dict[str, bool]:
    """Return the arguments that keep a model from caching keys and values."""
    config: Any = model.config
    config = config.get_text_config(decoder=True)
    return {"use_cache": False} if hasattr(config, "use_cache") else {}


def model_inputs(model: nn.Module, batch: Batch) -> dict[str, Any]:
    """Return what the model is called with: a batch without its labels, on the model's device, real numbers in its
    dtype.
    """
    like, device = next(model.parameters()), device_of(model)
    return {
        name: value.to(device, like.dtype if value.is_floating_point() else None)
        for name, value in batch.items()
        if name != "labels"
    } | without_cache(model)


def _run(model: nn.Module, batch: Batch) -> None:
    with suppress(_Stop), forward_pass():
        model(**model_inputs(model, batch))
