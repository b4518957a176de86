"""Start a forward pass at any layer: those before it return what they returned to the original network.

What a change deep in a network does to the loss costs no more than the layers from there on.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import nn

from neuromeld.archs.resolve import Architecture
from neuromeld.model.capture import Batch, model_inputs
from neuromeld.model.passes import forward_pass


class _Stop(Exception):
    """Raised by a hook once the last layer that is wanted has returned."""


@torch.no_grad()
def record_layers(model: nn.Module, arch: Architecture, batch: Batch, end: int) -> dict[int, Any]:
    """Run the model on a batch up to layer `end`, counted through all stacks; return what each layer before returned.

    Memory: the stream of the batch, once for each of these layers.
    """
    outputs: dict[int, Any] = {}

    def keep(index: int) -> Callable[..., None]:
        def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            outputs[index] = output
            if index == end - 1:
                raise _Stop

        return after

    with ExitStack() as hooks, suppress(_Stop):
        for index in range(end):
            handle = model.get_submodule(arch.layer_path(index)).register_forward_hook(keep(index))
            hooks.callback(handle.remove)
        if end:
            with forward_pass():
                model(**model_inputs(model, batch))
    return outputs


@contextmanager
def replaying(model: nn.Module, arch: Architecture, outputs: Mapping[int, Any], end: int) -> Iterator[None]:
    """Inside, the layers before `end` return what is in `outputs` and compute nothing.

    True to the model on the batch that was recorded, as long as these layers are as they were.
    """
    with ExitStack() as undo:
        for index in range(end):
            layer = model.get_submodule(arch.layer_path(index))
            layer.forward = lambda *_, index=index, **__: outputs[index]
            undo.callback(delattr, layer, "forward")
        yield
