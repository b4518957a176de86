"""The format that forward passes compute in, which need not be that of the weights (docs/decisions/0028).

By autocast: matrix products in bfloat16, each matrix cast when it is used; the residual stream, norms and losses in
float32.  What is captured comes back in float32: nothing outside a forward pass is touched.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Literal

import torch
from torch import Tensor, nn

from neuromeld.errors import UserInputError
from neuromeld.runtime.streaming import device_of
from neuromeld.settings import Passes

PassFormat = Literal["own", "bfloat16"]

LEAST_PARAMETERS = 1 << 24
"""Of a model whose passes are worth rounding: with fewer, they take no time."""

_bfloat16_on: ContextVar[str | None] = ContextVar("bfloat16_on", default=None)
"""The type of the device on which passes compute in bfloat16 now."""


def multiplies_bfloat16(device: torch.device) -> bool:
    """Tell whether a card or processor multiplies matrices in bfloat16 by instructions of its own.

    Not `torch.ops.mkldnn._is_mkldnn_bf16_supported`, which is true of AVX-512 without them.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16") or found.get("bf16"))


def passes_of_float32(asked: Passes, num_parameters: int, device: torch.device) -> PassFormat:
    """Return the format of the passes of a model whose weights are in float32, from its size alone."""
    if asked == "auto":
        return "bfloat16" if num_parameters >= LEAST_PARAMETERS and multiplies_bfloat16(device) else "own"
    return asked


def chosen_passes(asked: Passes, model: nn.Module) -> PassFormat:
    """Return the format of a model's passes; `UserInputError` for bfloat16 where its weights are not in float32."""
    weight = next(model.parameters())
    if weight.dtype == torch.float32:
        return passes_of_float32(asked, sum(parameter.numel() for parameter in model.parameters()), device_of(model))
    if asked == "bfloat16" and weight.dtype != torch.bfloat16:
        raise UserInputError(
            f"passes=bfloat16 is for weights in float32, and these are in {str(weight.dtype).removeprefix('torch.')}: "
            "leave it out, or load the model with --dtype float32"
        )
    return "own"


@contextmanager
def passes_in(chosen: PassFormat, model: nn.Module) -> Iterator[None]:
    """Let the forward passes inside compute in a format that `chosen_passes` gave for the model."""
    token = _bfloat16_on.set(device_of(model).type if chosen == "bfloat16" else None)
    try:
        yield
    finally:
        _bfloat16_on.reset(token)


def current_passes() -> PassFormat:
    """Return the format that forward passes compute in here."""
    return "own" if _bfloat16_on.get() is None else "bfloat16"


def keeping_casts() -> AbstractContextManager[object]:
    """Return a context in which a weight that asks for a gradient is cast once for all passes with `keep_casts`."""
    device = _bfloat16_on.get()
    return nullcontext() if device is None else torch.autocast(device, enabled=False, cache_enabled=True)


def forward_pass(*, keep_casts: bool = False) -> AbstractContextManager[object]:
    """Return the context of one forward pass; `keep_casts` where few weights are used again and again."""
    device = _bfloat16_on.get()
    return nullcontext() if device is None else torch.autocast(device, torch.bfloat16, cache_enabled=keep_casts)


def own_format(x: Tensor, passes: PassFormat | None = None) -> Tensor:
    """Return what a forward pass gave, in the format of the weights.

    passes   the format that it computed in; that of now by default
    """
    return x.float() if (passes or current_passes()) == "bfloat16" and x.is_floating_point() else x
