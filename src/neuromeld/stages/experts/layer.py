"""The mixture of one layer with fewer experts: which stay, where the others go, what those that stay write then."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from neuromeld.archs.spec import Mixture, Space
from neuromeld.model.layerwise import LayerInputs
from neuromeld.model.surgery import keep_experts, read_bias, read_matrix
from neuromeld.shapes import ACCUMULATE
from neuromeld.stages.base import Job
from neuromeld.stages.experts.merge import Call, heirs_of, merge_experts
from neuromeld.stages.experts.options import Experts
from neuromeld.stages.experts.selectors import SELECTORS, ExpertUse
from neuromeld.stats.split import held_out_here
from neuromeld.units.sublayer import (
    Expert,
    Sublayer,
    compensate,
    experts_of,
    moments_against,
    sent_to,
    write_experts,
    written,
)


@dataclass(frozen=True)
class ExpertsResult:
    """Hold the experts of one layer, before and after.

    kept    numbers of those that stay
    tokens  share of the calibration tokens that was sent to each
    merged  pairs: one that went, and the kept one that it was merged into
    refitted  how many of those that stay were refitted
    error_before, error_after  of what all experts write, on held-out tokens, over its own square: without and with the
            refit
    """

    layer: int
    experts_before: int
    experts_after: int
    kept: tuple[int, ...]
    tokens: tuple[float, ...]
    merged: tuple[tuple[int, int], ...]
    refitted: int
    error_before: float
    error_after: float


def fewer_experts(job: Job, inputs: LayerInputs, mixture: Mixture, options: Experts) -> ExpertsResult:
    """Leave as many experts of a layer as the job's sizes behind this stage say, in place."""
    sublayer, module = Sublayer(job.model, inputs, Space.FFN), inputs.layer.get_submodule(mixture.experts)
    total, count = job.before.experts, job.after.experts
    calls = _calls(inputs, module)
    wrote = [module(*call) for call in calls]
    use = _use(module, calls, total)
    kept = chosen_of(SELECTORS[options.selector](use), count, job.arch.groups)
    originals = experts_of(sublayer) if options.merge != "none" else []
    biases = read_bias(job.model, sublayer.consumer) if originals else None
    keep_experts(inputs.layer, mixture, kept, total)
    after, merged = _calls(inputs, module), []
    if originals:
        merged = heirs_of(calls, after, kept, use)
        merge_experts(sublayer, originals, kept, merged, use.shares, biases)
    gaps = [y - module(*call) for y, call in zip(wrote, after, strict=True)]
    error_before, refitted = _held_out_error(inputs, gaps, wrote), 0
    if options.compensate == "ridge":
        refitted = _refit(sublayer, after, gaps)
    return ExpertsResult(
        inputs.index,
        total,
        count,
        tuple(kept.tolist()),
        tuple((use.tokens / sum(len(x) for x, *_ in calls)).tolist()),
        tuple(merged),
        refitted,
        error_before,
        _held_out_error(inputs, gaps, wrote),
    )


def chosen_of(scores: Float[Tensor, "e"], count: int, groups: int) -> Int64[Tensor, "m"]:
    """Return the experts with the largest scores, in order, as many of every group, one of which comes after the
    other.
    """
    by_group = scores.view(groups, -1)
    best = by_group.topk(count // groups, dim=1).indices
    first = torch.arange(groups, device=scores.device)[:, None] * by_group.shape[1]
    return (best + first).flatten().sort().values


def _calls(inputs: LayerInputs, module: Any) -> list[Call]:
    """Return what the experts are called with on each batch, real tokens only."""
    found = (inputs.called(b, module) for b in range(len(inputs.batches)))
    return [(x, chosen, shares) for x, chosen, shares in found]


def _use(module: Any, calls: Sequence[Call], total: int) -> ExpertUse:
    sums = torch.zeros(3, total, dtype=ACCUMULATE, device=calls[0][0].device)
    for x, chosen, shares in calls:
        for number in range(total):
            share, sent = sent_to(number, chosen, shares)
            if not len(sent):
                continue
            alone = torch.full_like(chosen[: len(sent), :1], number)
            norms = module(x[sent], alone, torch.ones_like(shares[: len(sent), :1])).to(ACCUMULATE).norm(dim=1)
            sums[0, number] += len(sent)
            sums[1, number] += share.sum()
            sums[2, number] += (share[:, 0] * norms).sum()
    return ExpertUse(*sums)


def _refit(sublayer: Sublayer, calls: Sequence[Call], gaps: list[Tensor]) -> int:
    """Refit the output matrix of one expert after the other to write, on its tokens, what is still missing, too; take
    that off the gaps, and return how many were refitted.

    An expert with fewer tokens than neurons, or with none held out, stays as it is.
    """
    experts, done = experts_of(sublayer), 0
    for expert in experts:
        sent = [sent_to(expert.number, chosen, shares)[1] for _, chosen, shares in calls]
        num_tokens = [0, 0]
        for b, rows in enumerate(sent):
            num_tokens[sublayer.is_held_out(b)] += len(rows)
        matrix = read_matrix(expert.model, expert.consumer)
        if num_tokens[0] < len(matrix) or not num_tokens[1]:
            continue
        targets = [written(expert, b) + gaps[b][rows] for b, rows in enumerate(sent)]
        fitted, held_out = moments_against(expert, targets, len(matrix))

        def pair(b: int, expert: Expert = expert, targets: list[Tensor] = targets) -> tuple[Tensor, Tensor]:
            return expert.features(b), targets[b]

        done += compensate(expert, "ridge", matrix, fitted, held_out, pair).kept
        for b, rows in enumerate(sent):
            gaps[b][rows] = targets[b] - written(expert, b)
    write_experts(sublayer, experts)
    return done


def _held_out_error(inputs: LayerInputs, gaps: Sequence[Tensor], wrote: Sequence[Tensor]) -> float:
    held_out = [b for b in range(len(gaps)) if held_out_here(inputs.batches, b)]
    missing, all_of_it = (sum(float(y[b].to(ACCUMULATE).square().sum()) for b in held_out) for y in (gaps, wrote))
    return missing / max(all_of_it, torch.finfo(ACCUMULATE).tiny)
