"""Tiny models whose FF sublayers are related to each other, and their calibration data."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from contract.families import build, tokens
from neuromeld.archs import Architecture
from neuromeld.archs.spec import Space
from neuromeld.model.surgery import read_bias, read_matrix, read_norm, write_bias, write_matrix, write_norm
from neuromeld.planning.plan import architecture_of

FAMILIES = ["llama", "llama-biased", "opt", "bloom", "gpt2"]
"""Gated and plain FFNs, with and without biases, one that adds the stream itself, and one with transposed weights."""

EXACT = 1e-9


def batches(num: int = 96, *, seed: int = 1) -> list[dict[str, Tensor]]:
    return [{"input_ids": ids} for ids in tokens(num, seed=seed).split(8)]


def padded(data: list[dict[str, Tensor]], filler: int) -> list[dict[str, Tensor]]:
    """The batches with three tokens of padding on the left and two on the right."""
    result = []
    for batch in data:
        ids = batch["input_ids"]
        ids = torch.cat([torch.full_like(ids[:, :3], filler), ids, torch.full_like(ids[:, :2], filler)], dim=1)
        mask = torch.ones_like(ids)
        mask[:, :3], mask[:, -2:] = 0, 0
        result.append({"input_ids": ids, "attention_mask": mask})
    return result


@torch.no_grad()
def logits(model: PreTrainedModel) -> Tensor:
    return model(input_ids=tokens(2), use_cache=False).logits


def quiet(family: str) -> tuple[PreTrainedModel, Architecture]:
    """A model whose features change slowly with depth: sublayers write little, and norms have gains near 1."""
    model = build(family)
    arch = architecture_of(model)
    for layer in range(arch.num_layers):
        for writer in arch.producers(layer, Space.RESIDUAL):
            write_matrix(model, writer, 0.05 * read_matrix(model, writer))
        for norm in arch.layer_norms(layer):
            if norm.over != "residual" or norm.on_output:
                continue
            gain, bias = read_norm(model, norm.path)
            write_norm(model, norm.path, 1 + 0.1 * gain, bias)
    return model, arch


def copy_ff(model: PreTrainedModel, arch: Architecture, source: int, target: int, order: Tensor) -> None:
    """Give layer `target` the FF sublayer of layer `source`, its hidden units in another order."""
    pairs = zip(arch.layer_weights(source), arch.layer_weights(target), strict=True)
    for old, new in pairs:
        if "ffn" not in (old.in_, old.out):
            continue
        matrix, bias = read_matrix(model, old), read_bias(model, old)
        write_matrix(model, new, matrix[:, order] if old.out == "ffn" else matrix[order])
        if bias is not None:
            write_bias(model, new, bias[order] if old.out == "ffn" else bias)


def shuffle(width: int, seed: int) -> Tensor:
    return torch.randperm(width, generator=torch.Generator().manual_seed(seed))


def permuted_copies(family: str) -> tuple[PreTrainedModel, Architecture, dict[int, Tensor]]:
    """A quiet model in which the FF sublayers of layers 2 and 3 are permuted copies of that of layer 1."""
    model, arch = quiet(family)
    orders = {layer: shuffle(arch.widths[Space.FFN], layer) for layer in (2, 3)}
    for layer, order in orders.items():
        copy_ff(model, arch, 1, layer, order)
    return model, arch, orders
