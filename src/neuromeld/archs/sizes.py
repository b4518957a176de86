"""The sizes of a model, before or after: what a plan resolves, and what parameters are predicted from."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from neuromeld.archs.resolve import Architecture, has_bias
from neuromeld.archs.spec import GROUPED, VOCABULARIES, Space, Weight


@dataclass(frozen=True)
class Sizes:
    """The dimensions of a model.

    hidden        width of the residual stream
    ffn           hidden neurons of each layer; 0 of one without an FFN
    num_kv_heads  key-value heads of each layer, each with the query heads that read it
    depths        layers of each stack
    embedding_rank  of embedding and head, where they are factored, else 0
    shared_ffns   length of a window of FFNs with one set of weights
    vocab         tokens of the vocabulary; 0 where there is none
    target_vocab  tokens of that of the targets; 0 where there is one for both sides
    experts       of each layer that has some, else 0
    basis_starts  first layers of each run of layers that shares a basis; none where the stream keeps its width
    """

    hidden: int
    ffn: tuple[int, ...]
    num_kv_heads: tuple[int, ...]
    depths: tuple[int, ...]
    vocab: int = 0
    embedding_rank: int = 0
    shared_ffns: int = 1
    basis_starts: tuple[int, ...] = ()
    target_vocab: int = 0
    experts: int = 0

    @property
    def num_layers(self) -> int:
        """Layers of all stacks."""
        return len(self.ffn)

    @property
    def uniform(self) -> bool:
        """Whether all layers have the same sizes, those without an FFN apart."""
        return len({size for size in self.ffn if size}) == len(set(self.num_kv_heads)) == 1

    def left_in(self, kept: Sequence[int]) -> "Sizes":
        """Return the sizes of some layers of the only stack."""
        ffn, groups = (tuple(sizes[layer] for layer in kept) for sizes in (self.ffn, self.num_kv_heads))
        return replace(self, ffn=ffn, num_kv_heads=groups, depths=(len(kept),))

    def without_layers(self, count: int) -> "Sizes":
        """Return the sizes with `count` layers less in every stack, in which layers are alike."""
        starts = [sum(self.depths[:index]) for index in range(len(self.depths))]
        kept = [start + i for start, depth in zip(starts, self.depths, strict=True) for i in range(count, depth)]
        ffn, groups = (tuple(sizes[layer] for layer in kept) for sizes in (self.ffn, self.num_kv_heads))
        return replace(self, ffn=ffn, num_kv_heads=groups, depths=tuple(depth - count for depth in self.depths))


def sizes_of(arch: Architecture, config: Any) -> Sizes:
    """Return the sizes of a model as it comes."""
    keys = arch.spec.head_keys
    num_kv_heads = 1
    if keys is not None:
        num_kv_heads = getattr(config, keys[1], None) or getattr(config, keys[0])
    layers = arch.num_layers
    vocab = arch.widths[Space.VOCAB] if arch.spec.reads_tokens else 0
    ffn = tuple(0 if layer in arch.without_ffn else arch.size(Space.FFN, layer) for layer in range(layers))
    target_vocab = arch.widths.get(Space.TARGET_VOCAB, 0)
    heads = (num_kv_heads,) * layers
    return Sizes(arch.width, ffn, heads, arch.depths, vocab, target_vocab=target_vocab, experts=arch.experts)


def stock_multiple(arch: Architecture, before: Sizes, after: Sizes) -> int:
    """Return what a stock config wants the width of the stream to be a multiple of: in some families, query heads."""
    return max(1, arch.stock_multiple * after.num_kv_heads[0] // before.num_kv_heads[0])


def ffn_entries(arch: Architecture) -> int:
    """Return the entries of the matrices of all FFNs, as a model comes."""
    total = 0
    for layer in range(arch.num_layers):
        for weight in arch.layer_weights(layer):
            if Space.FFN in (weight.in_, weight.out):
                experts = arch.widths[Space.EXPERTS] if weight.stacked else 1
                total += experts * weight.repeats * arch.size(weight.in_, layer) * arch.size(weight.out, layer)
    return total


def embedding_share(model: nn.Module, arch: Architecture) -> float:
    """Return the share of the parameters that tables of tokens have; `model`, unchanged, may be on the meta device."""
    head = None if arch.tied else arch.spec.head
    weights = [w for w in (*arch.spec.embeddings, *([head] if head else [])) if {w.in_, w.out} & {*VOCABULARIES}]
    entries = sum(arch.widths[w.in_] * arch.widths[w.out] for w in weights)
    return entries / sum(parameter.numel() for parameter in model.parameters())


def space_size(arch: Architecture, before: Sizes, after: Sizes, layer: int, space: Space) -> int:
    """Return the width of a space of one layer at the sizes `after`; `before` are those that `arch` was resolved at."""
    if space == Space.RESIDUAL:
        return arch.size(space, layer) if arch.stack_widths else after.hidden
    if space == Space.FFN:
        return after.ffn[layer]
    if space == Space.EXPERTS:
        return after.experts
    if space == Space.VOCAB:
        return after.vocab
    if space == Space.TARGET_VOCAB:
        return after.target_vocab
    if space in GROUPED:
        return arch.widths[space] // before.num_kv_heads[layer] * after.num_kv_heads[layer]
    return arch.size(space, layer)


def layer_entries(arch: Architecture, before: Sizes, after: Sizes, layer: int, spaces: Collection[Space] = ()) -> int:
    """Return the entries of the matrices of a layer; with `spaces`, of those with an axis in one of them."""
    return sum(
        (after.experts if weight.stacked else 1)
        * weight.repeats
        * math.prod(space_size(arch, before, after, layer, space) for space in (weight.in_, weight.out))
        for weight in arch.layer_weights(layer)
        if not spaces or weight.in_ in spaces or weight.out in spaces
    )


def predict_parameters(model: nn.Module, arch: Architecture, before: Sizes, after: Sizes, *, extra: int = 0) -> int:
    """Predict the unique parameters at the sizes `after`, plus `extra`, of a `model` that still has the sizes
    `before`.
    """

    def size(space: Space, layer: int = 0) -> int:
        return space_size(arch, before, after, layer, space)

    of_experts = {*arch.tensors_of_experts()}
    by_token = {id(parameter) for name, parameter in model.named_parameters() if name in arch.spec.token_vectors}
    by_expert = {id(parameter) for name, parameter in model.named_parameters() if name in of_experts}

    def untouched(parameter: nn.Parameter) -> int:
        if id(parameter) in by_expert:
            return parameter.numel() // before.experts * after.experts
        return size(arch.spec.written) if id(parameter) in by_token else parameter.numel()

    total = extra + sum(untouched(parameter) for parameter in arch.untouched_parameters(model))
    head = arch.spec.head
    for weight in (*arch.spec.embeddings, *([head] if head else [])):
        tied = arch.tied and weight == head
        total += 0 if tied else size(weight.in_) * size(weight.out)
        total += size(weight.out) if has_bias(model, weight) else 0
    for norm in (arch.spec.embedding_norm, arch.spec.final_norm):
        if norm is not None:
            total += size(norm.over) * len(list(model.get_submodule(norm.path).parameters()))
    shared = 0
    for layer in range(after.num_layers):
        for weight in arch.layer_weights(layer):
            size_out = weight.repeats * size(weight.out, layer)
            size_out *= after.experts if weight.stacked else 1
            own = size(weight.in_, layer) * size_out
            own += size_out if has_bias(model, weight) else 0
            total += own
            shared += own if layer in arch.stack_offsets and Space.FFN in (weight.in_, weight.out) else 0
        for norm in arch.layer_norms(layer):
            module = model.get_submodule(norm.path)
            total += size(norm.over, layer) * len(list(module.parameters()))
    return total - (after.shared_ffns - 1) * shared


def predict_flops(arch: Architecture, before: Sizes, after: Sizes, *, context: int, extra: int = 0) -> int:
    """Predict the operations of one token at the sizes `after`, as `evaluate.flops_per_token` counts them on a model,
    and with the convolutions of FFNs.

    extra  entries of matrices that are neither in a layer nor the head
    """
    head = arch.spec.head
    entries = extra + (after.hidden * space_size(arch, before, after, 0, head.out) if head else 0)
    return 2 * entries + sum(
        weight_flops(arch, before, after, layer, weight, context=context)
        for layer in range(after.num_layers)
        for weight in arch.layer_weights(layer)
    )


def weight_flops(arch: Architecture, before: Sizes, after: Sizes, layer: int, weight: Weight, *, context: int) -> int:
    """Return the operations of one token in a matrix of a layer; with what attention does, in the one that reads it."""
    size_in, size_out = (space_size(arch, before, after, layer, space) for space in (weight.in_, weight.out))
    attended = 4 * context * size_in if weight.in_ in (Space.HEADS, Space.CROSS_HEADS) else 0
    times = weight.repeats * (arch.active if weight.stacked else 1)
    return arch.runs * (2 * times * size_in * size_out + attended)


def changes(before: Sizes, after: Sizes) -> list[str]:
    """Say in words what differs, one line each."""

    def span(sizes: tuple[int, ...]) -> str:
        low, high = min(sizes), max(sizes)
        return str(low) if low == high else f"{low} to {high}, {sum(sizes) / len(sizes):.0f} on average"

    pairs = (
        ("tokens of the vocabulary", f"{before.vocab:,}", f"{after.vocab:,}"),
        ("tokens of the vocabulary of targets", f"{before.target_vocab:,}", f"{after.target_vocab:,}"),
        ("rank of the embedding", "full", str(after.embedding_rank or "full")),
        ("layers", str(before.num_layers), str(after.num_layers)),
        ("experts of each layer", str(before.experts), str(after.experts)),
        ("key-value heads of each layer", span(before.num_kv_heads), span(after.num_kv_heads)),
        ("hidden neurons of each FFN", span(before.ffn), span(after.ffn)),
        ("width of the residual stream", str(before.hidden), str(after.hidden)),
        ("adjacent FFNs with one set of weights", str(before.shared_ffns), str(after.shared_ffns)),
    )
    return [f"{what}: {old} -> {new}" for what, old, new in pairs if old != new]
