"""What the tests of narrowing share: a call with plain sizes, and what a consumer reads on the calibration data."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from contract.families import FAMILIES
from neuromeld.archs import Architecture
from neuromeld.archs.spec import Space
from neuromeld.model.surgery import read_bias, read_matrix, write_bias, write_matrix
from neuromeld.stages.ffn import Ffn, FfnStage
from neuromeld.stages.heads import Heads, HeadsStage
from neuromeld.stages.sublayer_stage import Step, run_together
from neuromeld.units.sublayer import SublayerResult
from unit.stages.jobs import job
from unit.stages.models import batches

EXACT = 1e-9
GROUPED = [family for family in FAMILIES if family.split("-")[0] in ("llama", "mistral", "qwen2", "qwen3")]


def narrow(
    model: PreTrainedModel,
    *,
    ffn: Sequence[int] | None = None,
    groups: Sequence[int] | None = None,
    data: Sequence[dict[str, Tensor]] | None = None,
    arch: Architecture | None = None,
    seed: int = 0,
    merge: str = "none",
    **options: str,
) -> list[SublayerResult]:
    """Narrow FFNs to `ffn` neurons a layer and attention to `groups` a layer; `arch` is that of the whole model."""
    made, steps = job(model, batches() if data is None else data, arch=arch, seed=seed), []
    if groups is not None:
        before, made.after = made.after, replace(made.after, num_kv_heads=tuple(groups))
        steps.append(Step(HeadsStage(), Heads(num_kv_heads=tuple(groups), **options), made.target, before, made.after))
    if ffn is not None:
        before, made.after = made.after, replace(made.after, ffn=tuple(ffn))
        steps.append(Step(FfnStage(), Ffn(size=tuple(ffn), merge=merge, **options), made.target, before, made.after))
    return [result for found in run_together(made, steps).values() for result in found.layers]


def one_layer(arch: Architecture, layer: int, size: int) -> list[int]:
    """The width of every FFN, with that of one layer changed."""
    return [size if i == layer else arch.widths[Space.FFN] for i in range(arch.num_layers)]


def calls(
    model: PreTrainedModel, path: str, data: Sequence[dict[str, Tensor]] | None = None
) -> list[tuple[Tensor, Tensor]]:
    """What a module reads and writes, `(n, width)`, for each calibration batch, by a hook of torch alone."""
    found: list[tuple[Tensor, Tensor]] = []

    def see(_: object, args: tuple[Tensor], output: Tensor) -> None:
        found.append((args[0].flatten(0, -2), output.flatten(0, -2)))

    handle = model.get_submodule(path).register_forward_hook(see)
    with torch.no_grad():
        for batch in batches() if data is None else data:
            model(**batch, use_cache=False)
    handle.remove()
    return found


def hide_copies(model: PreTrainedModel, arch: Architecture, copies: Tensor, originals: Tensor, scale: float) -> None:
    """Make hidden neurons `copies` of every layer do what `originals` do, `scale` times as strong, and matter less.

    A gated FFN's copies share the gate; the output weights of all others are of one size, those of copies small.
    """
    for layer in range(arch.num_layers):
        *gates, last = arch.producers(layer, Space.FFN)
        for weight in (*gates, last):
            factor = scale if weight == last else 1.0
            matrix, bias = read_matrix(model, weight).clone(), read_bias(model, weight)
            matrix[:, copies] = factor * matrix[:, originals]
            write_matrix(model, weight, matrix)
            if bias is not None:
                bias = bias.abs() + 1  # no ReLU is dead
                bias[copies] = factor * bias[originals]
                write_bias(model, weight, bias)
        consumer = arch.consumer(layer, Space.FFN)
        matrix = read_matrix(model, consumer)
        matrix = matrix / matrix.norm(dim=1, keepdim=True)
        matrix[copies] *= 1e-3
        write_matrix(model, consumer, matrix)
