"""The published SliceGPT form (arXiv:2401.15024) as a baseline: PCA at every cut, two changes of basis a layer.

Simulated at full width, `x -> x Q Q^T` at every cut, which gives the logits of the truly narrow model.  Each cut's
second moment is that of the already narrowed network, and the parameters are those that the form would have: narrow
matrices, a shortcut of two widths at every cut but the first, and an untied head; norms are folded away.  A LayerNorm
becomes an RMSNorm first, by centring the stream.

The published runs leave the last cut, and with it the head, at full width; `narrow_head` narrows them too, which
saves more parameters at the same width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from neuromeld.archs import Architecture
from neuromeld.archs.spec import Space
from neuromeld.errors import UnsupportedModelError, UserInputError
from neuromeld.model.capture import Batch, record_calls
from neuromeld.planning.largest import largest
from neuromeld.planning.plan import architecture_of

DAMPING = 0.01
"""Added to the second moment, over its mean diagonal: the published code's."""

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gpt2", "opt")
"""Whose layers add attention, then the FFN, to the stream without scaling it."""


@torch.no_grad()
def simulate_slicegpt(model: PreTrainedModel, batches: Sequence[Batch], k: int, *, narrow_head: bool) -> None:
    """Make `model` compute what its SliceGPT form of width `k` would; it keeps its full width."""
    arch = _architecture(model)
    centred = arch.final_norm.kind == "layer"
    calls = record_calls(model, arch, batches)
    hidden = calls.hidden
    for index in range(arch.num_layers):
        layer = model.get_submodule(arch.layer_path(index))
        first = projection(hidden, k, centred=centred)
        hidden = [x @ first for x in hidden]
        norm = model.get_submodule(arch.residual_norms(index)[1].path)
        second = projection(
            [calls.run_until(layer, index, b, x, norm) for b, x in enumerate(hidden)], k, centred=centred
        )
        _project(layer, model.get_submodule(arch.consumer(index, Space.HEADS).path), first, second)
        hidden = [calls.run(layer, index, b, x) for b, x in enumerate(hidden)]
    if narrow_head:
        last = projection(hidden, k, centred=centred)
        final_norm = model.get_submodule(arch.final_norm.path)
        final_norm.register_forward_pre_hook(lambda _, args: (args[0] @ last,))


def projection(streams: Sequence[Tensor], k: int, *, centred: bool) -> Tensor:
    """`Q Q^T (d, d)` of the `k` leading eigenvectors of the damped second moment; behind the centring, if asked."""
    d = streams[0].shape[-1]
    rows = torch.cat([x.flatten(0, -2) for x in streams]).double()
    centre = torch.eye(d, dtype=rows.dtype, device=rows.device) - (1 / d if centred else 0)
    rows = rows @ centre
    second_moment = rows.T @ rows
    second_moment.diagonal().add_(DAMPING * second_moment.diagonal().mean())
    vectors = torch.linalg.eigh(second_moment).eigenvectors[:, -k:]
    projected: Tensor = centre @ vectors @ vectors.T
    return projected.to(streams[0].dtype)


def _project(layer: nn.Module, attention_output: nn.Module, first: Tensor, second: Tensor) -> None:
    """Project the stream where it enters `layer`, and again after the residual add behind attention."""
    entering: list[Tensor] = []

    def enter(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        entering[:] = [args[0] @ first]
        return (entering[0], *args[1:])

    def leave(_: nn.Module, __: object, output: Tensor) -> Tensor:
        return (entering[0] + output) @ second - entering[0]

    layer.register_forward_pre_hook(enter)
    attention_output.register_forward_hook(leave)


def slicegpt_parameters(model: PreTrainedModel, k: int, *, narrow_head: bool) -> int:
    """Count the parameters that the form stores at width `k`; the model may be a `meta_model`."""
    arch = _architecture(model)
    widths = arch.widths | {Space.RESIDUAL: k}
    last = k if narrow_head else arch.width
    total = sum(widths[w.in_] * k for w in arch.spec.embeddings) + last * arch.widths[Space.VOCAB]
    if arch.final_norm.kind == "layer":
        total += arch.widths[Space.VOCAB]  # the norm's bias becomes one of the head
    for index in range(arch.num_layers):
        leaves = last if index == arch.num_layers - 1 else k
        total += k * k + k * leaves
        for weight in arch.layer_weights(index):
            out = leaves if (weight.in_, weight.out) == (Space.FFN, Space.RESIDUAL) else widths[weight.out]
            has_bias = getattr(model.get_submodule(weight.path), "bias", None) is not None
            total += (widths[weight.in_] + has_bias) * out
    return total


def slicegpt_width(model: PreTrainedModel, budget: int, *, narrow_head: bool) -> int:
    """Return the largest width whose form has at most `budget` parameters; `UserInputError` where none has."""
    widths = range(2, architecture_of(model).width + 1)
    width = largest(widths, lambda k: slicegpt_parameters(model, int(k), narrow_head=narrow_head) <= budget)
    if width is None:
        raise UserInputError(f"no width of the SliceGPT form has at most {budget:,} parameters: ask for less")
    return int(width)


def _architecture(model: PreTrainedModel) -> Architecture:
    arch = architecture_of(model)
    if arch.spec.model_type not in FAMILIES:
        raise UnsupportedModelError(
            f"the SliceGPT form of {arch.spec.model_type} is not described; it is for {', '.join(FAMILIES)}"
        )
    return arch
