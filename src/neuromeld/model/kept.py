"""Attention that runs once, however often its layer is called on the same stream while the FFN behind it changes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from neuromeld.runtime.streaming import on_device


class KeptAttention:
    """Keep what the attention of one layer returned on each batch; `path` leads to it from the layer on, and with None
    nothing is kept.

    It counts as long as attention has the parameters with which it was found, for any layer that has them.
    Memory: the stream of all batches, where `offload` puts it.
    """

    def __init__(self, path: str | None, offload: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        self._path, self._offload = path, offload
        self._found: dict[int, tuple[list[nn.Parameter], Any]] = {}

    @contextmanager
    def on(self, batch: int, layer: nn.Module, until: nn.Module | None = None) -> Iterator[None]:
        """Inside, `layer` is called on a batch: its attention returns what is kept, or runs and is kept.

        until   the module in the layer that the call ends at; where attention has it, it runs
        """
        if self._path is None:
            yield
            return
        attention = layer.get_submodule(self._path)
        if any(module is until for module in attention.modules()):
            yield
            return
        own, parameters = attention.forward, list(attention.parameters())
        known = self._found.get(batch)
        valid = known is not None and all(new is old for new, old in zip(parameters, known[0], strict=True))

        def forward(*args: Any, **kwargs: Any) -> Any:
            if known is not None and valid:
                return _back(known[1])
            output = own(*args, **kwargs)
            self._keep(batch, parameters, output)
            return output

        before = vars(attention).get("forward")
        attention.forward = forward
        try:
            yield
        finally:
            del attention.forward
            if before is not None:
                attention.forward = before

    def drop(self, batch: int) -> None:
        """Keep nothing of a batch any longer."""
        self._found.pop(batch, None)

    def _keep(self, batch: int, parameters: list[nn.Parameter], output: Any) -> None:
        # Attention that returns more than what it writes, as its probabilities, may be too large to keep.
        first, *others = output if isinstance(output, tuple) else (output,)
        if any(isinstance(other, Tensor) for other in others):
            return
        kept = self._offload(first)
        self._found[batch] = parameters, (kept, *others) if isinstance(output, tuple) else kept


def _back(kept: Any) -> Any:
    """Return what was kept where models compute."""
    return (on_device(kept[0]), *kept[1:]) if isinstance(kept, tuple) else on_device(kept)
