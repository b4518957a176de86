"""The stage `heads`: remove groups of attention heads."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PretrainedConfig

from neuromeld.archs.sizes import Sizes, space_size
from neuromeld.archs.spec import GROUPED, Space
from neuromeld.model.surgery import mix_outputs, read_matrix
from neuromeld.stages.base import Job, Target, Workload
from neuromeld.stages.heads.options import Heads
from neuromeld.stages.per_layer import per_layer
from neuromeld.stages.sublayer_stage import SublayerStage
from neuromeld.units.sublayer import Sublayer, SublayerResult, compensate, moments, pairs_of_some, score


class HeadsStage(SublayerStage[Heads]):
    """Narrow attention by whole key-value heads, each with the query heads that read it."""

    name = "heads"
    title = "attention heads"
    prefix = "heads"
    Options = Heads
    space = Space.HEADS
    unit = "num_kv_heads"
    refused = "heads cannot be taken out of"
    touched = (*GROUPED, Space.HEADS)

    def sizes(self, sizes: Sizes) -> tuple[int, ...]:
        """Return the key-value heads of each layer."""
        return sizes.num_kv_heads

    def with_sizes(self, sizes: Sizes, by_layer: Mapping[int, int]) -> Sizes:
        """Return the sizes with other numbers of key-value heads in some layers."""
        heads = tuple(by_layer.get(layer, size) for layer, size in enumerate(sizes.num_kv_heads))
        return replace(sizes, num_kv_heads=heads)

    def native_reasons(self, options: Heads, target: Target, after: Sizes) -> list[str]:
        """Add that layers may come to differ."""
        by_layer = ["heads.by_layer gives layers different numbers of heads"] if options.by_layer else []
        return super().native_reasons(options, target, after) + by_layer

    def served(self, after: Sizes, options: Heads) -> Sizes:
        """Return another number of heads in the first layer, which some engines do not load."""
        first = after.num_kv_heads[0]
        return self.with_sizes(after, {0: first - 1 if first > 1 else first + 1}) if options.by_layer else after

    def features(self, work: Workload, sizes: Sizes) -> int:
        """Return the channels of all heads of the widest attention."""
        layers = range(sizes.num_layers)
        return max(space_size(work.arch, work.target.original, sizes, layer, Space.HEADS) for layer in layers)

    def resize(self, sizes: Sizes, options: Heads, target: Target) -> Sizes:  # noqa: ARG002
        """Return the sizes with fewer key-value heads."""
        return replace(sizes, num_kv_heads=per_layer("num_kv_heads", options.num_kv_heads, sizes.num_kv_heads))

    def write_config(self, config: PretrainedConfig, target: Target, after: Sizes) -> None:
        """Set the numbers of query heads and of key-value heads."""
        assert target.arch.spec.head_keys is not None
        query, key_value = target.arch.spec.head_keys
        per_kv_head = getattr(config, query) // target.original.num_kv_heads[0]
        setattr(config, query, per_kv_head * after.num_kv_heads[0])
        setattr(config, key_value, after.num_kv_heads[0])

    def narrow(self, sublayer: Sublayer, options: Heads, keep: int, job: Job) -> list[SublayerResult]:
        """Keep the groups with the largest scores, summed over their channels."""
        model, arch, total = sublayer.model, sublayer.inputs.arch, job.before.num_kv_heads[sublayer.layer]
        fitted, held_out = moments(sublayer)
        scores = score(sublayer, options.selector, fitted, job.seed, arch.widths[Space.HEADS] // total)
        groups = torch.topk(scores.view(total, -1).sum(1), keep).indices.sort().values

        def channels(space: Space) -> Tensor:
            return torch.arange(arch.widths[space], device=groups.device).view(total, -1)[groups].flatten()

        kept, matrix = channels(Space.HEADS), read_matrix(model, sublayer.consumer)
        pair = pairs_of_some(sublayer, kept)
        fit = compensate(sublayer, options.compensate, matrix[kept], fitted.narrow(kept), held_out.narrow(kept), pair)
        for space in GROUPED:
            for producer in arch.producers(sublayer.layer, space):
                mix_outputs(model, producer, channels(space))
        return [SublayerResult(sublayer.layer, Space.HEADS, total, keep, tuple(groups.tolist()), fit)]
