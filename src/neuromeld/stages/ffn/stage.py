"""The stage `ffn`: narrow the hidden layers of the FFNs."""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PretrainedConfig

from neuromeld.archs.keys import write_key
from neuromeld.archs.sizes import Sizes
from neuromeld.archs.spec import Space
from neuromeld.errors import UserInputError
from neuromeld.model.surgery import mix_outputs, read_matrix
from neuromeld.runtime.distributed import num_ranks
from neuromeld.shapes import ACCUMULATE
from neuromeld.stages.base import Job, Target, Workload
from neuromeld.stages.ffn.options import Ffn
from neuromeld.stages.per_layer import per_layer, round_width
from neuromeld.stages.sublayer_stage import SublayerStage
from neuromeld.transport import summarise_plan
from neuromeld.units.merges import MERGES
from neuromeld.units.selectors import measures_levels
from neuromeld.units.sublayer import (
    Narrowable,
    Sublayer,
    SublayerResult,
    compensate,
    experts_of,
    moments,
    moments_against,
    pairs_of_some,
    score,
    write_experts,
    written,
)

FFN_MULTIPLE = 8
"""Hidden sizes of FFNs are rounded down to a multiple of this, or of 128 where they are large."""


class FfnStage(SublayerStage[Ffn]):
    """Keep some hidden neurons of every FFN, merge the others into them, refit what reads them."""

    name = "ffn"
    title = "feed-forward networks"
    prefix = "ffn"
    Options = Ffn
    space = Space.FFN
    unit = "width"
    refused = "FFNs cannot be narrowed in"
    touched = (Space.FFN,)

    def sizes(self, sizes: Sizes) -> tuple[int, ...]:
        """Return the hidden neurons of each layer."""
        return sizes.ffn

    def features(self, work: Workload, sizes: Sizes) -> int:  # noqa: ARG002
        """Return the hidden neurons of the widest FFN."""
        return max(sizes.ffn)

    def resize(self, sizes: Sizes, options: Ffn, target: Target) -> Sizes:
        """Return the sizes with narrower FFNs."""
        multiple, ratio = math.lcm(FFN_MULTIPLE, target.multiples.alike), options.ratio or 1
        size = options.size or tuple(
            width and max(1, round_width(width * ratio, width, multiple)) for width in sizes.ffn
        )
        ffn, step = per_layer("ffn.size", size, sizes.ffn), self.step_of(target, sizes)
        if options.by_layer and any(new < min(step, old) for new, old in zip(ffn, sizes.ffn, strict=True)):
            raise UserInputError(
                f"ffn.by_layer leaves at least {step} hidden neurons in every layer, and this asks for {min(ffn)} on "
                "average: give a larger size or ratio, or leave by_layer out"
            )
        return replace(sizes, ffn=ffn)

    def native_reasons(self, options: Ffn, target: Target, after: Sizes) -> list[str]:
        """Add that layers may come to differ."""
        by_layer = ["ffn.by_layer gives layers FFNs of different sizes"] if options.by_layer else []
        return super().native_reasons(options, target, after) + by_layer

    def with_sizes(self, sizes: Sizes, by_layer: Mapping[int, int]) -> Sizes:
        """Return the sizes with other FFNs in some layers."""
        return replace(sizes, ffn=tuple(by_layer.get(layer, size) for layer, size in enumerate(sizes.ffn)))

    def step_of(self, target: Target, before: Sizes) -> int:
        """Return what widths are multiples of."""
        return math.lcm(FFN_MULTIPLE if max(before.ffn) < 2048 else 128, target.multiples.by_layer)

    def searches(self, options: Ffn) -> bool:
        """Tell whether the width of each layer is chosen by measured losses."""
        return options.by_layer and measures_levels(options.selector)

    def write_config(self, config: PretrainedConfig, target: Target, after: Sizes) -> None:
        """Set the intermediate size, as it is and not as something else is made of it."""
        for key in target.arch.spec.config_keys(Space.FFN):
            write_key(config, key, max(after.ffn))
        for key in target.arch.spec.switches_off:
            write_key(config, key, False)

    def regression_bytes(self, options: Ffn, work: Workload) -> int:
        """Add what a merge holds: matrices `(f, k)` and what every batch wrote."""
        largest = super().regression_bytes(options, work)
        if options.merge == "none":
            return largest
        d, f, k = work.arch.width, self.features(work, work.target.original), self.features(work, work.after)
        return max(largest, 2 * 8 * f * (f + d) + 6 * 8 * f * k + work.tokens * d * work.itemsize)

    def looks(self, options: Ffn) -> int:
        """Look again at what was written, and at what merged neurons do."""
        return 1 if options.merge == "none" else 3

    def narrow(self, sublayer: Sublayer, options: Ffn, keep: int, job: Job) -> list[SublayerResult]:
        """Narrow one FFN, or each expert of a mixture."""
        if sublayer.consumer.stacked:
            return _narrow_experts(sublayer, options, keep, job.seed)
        return [_narrow_ffn(sublayer, options, keep, job.seed)]


def _narrow_experts(sublayer: Sublayer, options: Ffn, keep: int, seed: int) -> list[SublayerResult]:
    """Narrow each on the tokens that it gets; one with too few for a regression on all tokens, uncompensated."""
    if num_ranks() > 1:
        raise UserInputError("FFNs of experts are narrowed in one process; start it without torchrun")
    experts = experts_of(sublayer)
    all_tokens = [x for x, *_ in (sublayer.called(b) for b in range(sublayer.num_batches))]
    done = []
    for expert in experts:
        num_tokens = [0, 0]
        for b, (x, _) in enumerate(expert.routed):
            num_tokens[expert.is_held_out(b)] += len(x)
        chosen, judged = options, expert
        if num_tokens[0] < sublayer.inputs.arch.widths[Space.FFN] or not num_tokens[1]:
            chosen = options.model_copy(update={"compensate": "none"})
            judged = replace(expert, routed=[(x, torch.ones_like(x[:, :1])) for x in all_tokens])
        done.append(replace(_narrow_ffn(judged, chosen, keep, seed), expert=expert.number))
    write_experts(sublayer, experts)
    return done


def _narrow_ffn(sublayer: Narrowable, options: Ffn, keep: int, seed: int) -> SublayerResult:
    model, consumer = sublayer.model, sublayer.consumer
    fitted, held_out = moments(sublayer)
    matrix = read_matrix(model, consumer).to(ACCUMULATE)
    before = len(matrix)
    kept = torch.topk(score(sublayer, options.selector, fitted, seed), keep).indices.sort().values
    shares = MERGES[options.merge](fitted, kept)
    mixed = options.merge != "none"
    targets = [written(sublayer, b) for b in range(sublayer.num_batches)] if mixed else []
    pair = pairs_of_some(sublayer, kept)
    for producer in sublayer.producers if mixed else ():
        mix_outputs(model, producer, shares / shares.sum(0))
    # One after the other: with their sums over the whole width these are the largest matrices of the job.
    fitted = fitted.narrow(kept)
    held_out = held_out.narrow(kept)
    if mixed:
        # Averages before the nonlinearity are not averages behind it: look again at what the neurons do now.
        fitted, held_out = moments_against(sublayer, targets, keep)

        def pair(batch: int) -> tuple[Tensor, Tensor]:
            return sublayer.features(batch), targets[batch]

    followed = matrix[kept]
    if mixed:
        followed = (shares / shares.sum(1, keepdim=True).clamp(min=torch.finfo(ACCUMULATE).tiny)).T @ matrix
    merges = summarise_plan(shares, kept) if mixed else None
    del shares, matrix
    fit = compensate(sublayer, options.compensate, followed, fitted, held_out, pair)
    for producer in () if mixed else sublayer.producers:
        mix_outputs(model, producer, kept)
    return SublayerResult(sublayer.layer, Space.FFN, before, keep, tuple(kept.tolist()), fit, merges=merges)
