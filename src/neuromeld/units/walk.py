"""Narrow the inner spaces of the layers of a live model, one sublayer after the other.

Every sublayer sees the network that is already narrow before it.  Its *consumer*, the matrix that writes back into the
residual stream, is then refitted to write what the whole sublayer would have written there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from neuromeld.archs.resolve import Architecture
from neuromeld.archs.spec import FFN, GROUPED, HEADS
from neuromeld.errors import UserInputError
from neuromeld.linalg.ridge import FFN_LAMBDAS, FitReport, RidgeFit, is_held_out, refit
from neuromeld.model.capture import Batch, LayerCalls, record_calls
from neuromeld.model.layerwise import change_once
from neuromeld.model.surgery import mix_outputs, read_bias, read_matrix, write_bias, write_matrix
from neuromeld.runtime.distributed import num_ranks
from neuromeld.runtime.journal import NO_JOURNAL, Journal
from neuromeld.runtime.memory import release_memory
from neuromeld.shapes import ACCUMULATE
from neuromeld.stats import FeatureMoments, Features, TargetMoments
from neuromeld.stats.base import reduce
from neuromeld.transport import PlanSummary, summarise_plan
from neuromeld.units.merges import MERGES
from neuromeld.units.options import Compensate, Ffn, Heads
from neuromeld.units.selectors import NEEDS_FELT
from neuromeld.units.sublayer import Expert, Sublayer, experts_of, write_experts
from neuromeld.units.taylor import taylor_importance


@dataclass(frozen=True)
class SublayerResult:
    """What became of one space of one layer.

    `before` and `after` count hidden neurons, or groups of heads; `kept` are their indices.  The errors of `fit` are
    those of what the sublayer, or the `expert` of that number, writes, on held-out tokens.  `merges` tells
    where neurons went that were merged.
    """

    layer: int
    space: str
    before: int
    after: int
    kept: tuple[int, ...]
    fit: FitReport
    expert: int | None = None
    merges: PlanSummary | None = None


_NARROWINGS = TypeAdapter(list[SublayerResult])


@torch.no_grad()
def narrow_neurons(
    model: nn.Module,
    arch: Architecture,
    batches: Sequence[Batch],
    *,
    num_kv_heads: int,
    heads: tuple[Heads, Sequence[int]] | None = None,
    ffn: tuple[Ffn, Sequence[int]] | None = None,
    seed: int = 0,
    journal: Journal = NO_JOURNAL,
    advance: Callable[[int], None] = lambda _: None,
) -> list[SublayerResult]:
    """Narrow attention and FFNs of `model` in place, layer by layer.

    batches     calibration data, at least two
    num_kv_heads  groups of heads of each layer at the start
    heads, ffn  the options, and how many groups or neurons each layer keeps; None leaves the space alone

    Memory: the residual stream of all batches, unless the journal holds it, and the Gram matrix of one sublayer twice;
    before that, for selectors that look at gradients, all activations of one window.
    """
    check_compensation(model, arch, heads[0] if heads else None, ffn[0] if ffn else None)
    spaces = [space for options, space in ((heads, HEADS), (ffn, FFN)) if options and options[0].selector in NEEDS_FELT]
    if spaces and num_ranks() > 1:
        raise UserInputError("selectors that look at gradients run in one process; start it without torchrun")
    taylor = taylor_importance(
        model, arch, spaces, [batch for b, batch in enumerate(batches) if not is_held_out(b, len(batches))]
    )
    done: list[SublayerResult] = []

    def narrow(calls: LayerCalls, index: int) -> list[SublayerResult]:
        def sublayer(space: str) -> Sublayer:
            consumer = arch.consumer(index, space)
            return Sublayer(model, arch, calls, calls.hidden, index, consumer, taylor.get(consumer.path))

        found = []
        if heads is not None and heads[1][index] < num_kv_heads:
            found.append(_narrow_heads(sublayer(HEADS), heads[0], heads[1][index], num_kv_heads, seed))
        if ffn is not None and ffn[1][index] < arch.widths[FFN]:
            hidden = sublayer(FFN)
            narrow_ffn = _narrow_experts if hidden.consumer.stacked else _narrow_ffn
            found += narrow_ffn(hidden, ffn[0], ffn[1][index], seed)
        return found

    for index in range(arch.num_layers):
        if index in arch.stack_offsets:
            calls = record_calls(model, arch, batches, arch.stack_offsets.index(index), journal.offload)
        layer = model.get_submodule(arch.layer_path(index))
        found: list[SublayerResult] = change_once(
            journal, f"neurons-{index}", layer, partial(narrow, calls, index), _NARROWINGS
        )
        done += found
        for b, x in enumerate(calls.hidden):
            calls.hidden[b] = journal.offload(calls.run(layer, index, b, x))
        release_memory()
        advance(index + 1)
    return done


def check_compensation(model: nn.Module, arch: Architecture, heads: Heads | None, ffn: Ffn | None) -> None:
    """`UserInputError` for what a model has no place for: `compensate=bias` without a bias, gradients of experts."""
    for options, space in ((heads, HEADS), (ffn, FFN)):
        consumer = arch.consumer(0, space)
        if options is not None and options.compensate == "bias" and read_bias(model, consumer) is None:
            raise UserInputError(f"compensate=bias: {consumer.path} has no bias; use ridge or none")
        if options is not None and options.selector in NEEDS_FELT and consumer.stacked:
            raise UserInputError(f"selector={options.selector} does not look at single experts; use another")


def _narrow_heads(sublayer: Sublayer, options: Heads, keep: int, num_kv_heads: int, seed: int) -> SublayerResult:
    model, arch, consumer = sublayer.model, sublayer.arch, sublayer.consumer
    fitted, held_out = _moments(sublayer)
    score = sublayer.score(options.selector, fitted, seed)
    groups = torch.topk(score.view(num_kv_heads, -1).sum(1), keep).indices.sort().values

    def channels(space: str) -> Tensor:
        return torch.arange(arch.widths[space], device=groups.device).view(num_kv_heads, -1)[groups].flatten()

    for space in GROUPED:
        for producer in arch.producers(sublayer.layer, space):
            mix_outputs(model, producer, channels(space))
    kept = channels(HEADS)
    fit = _refit_consumer(
        sublayer, read_matrix(model, consumer)[kept], options.compensate, fitted.narrow(kept), held_out.narrow(kept)
    )
    return SublayerResult(sublayer.layer, HEADS, num_kv_heads, keep, tuple(groups.tolist()), fit.fit)


def _narrow_experts(sublayer: Sublayer, options: Ffn, keep: int, seed: int) -> list[SublayerResult]:
    """Each on the tokens that it gets; one that gets too few for a regression on all tokens, without compensation."""
    if num_ranks() > 1:
        raise UserInputError("FFNs of experts are narrowed in one process; start it without torchrun")
    experts = experts_of(sublayer)
    all_tokens = [x for x, *_ in (sublayer.inputs(b, sublayer.consumer.path) for b in range(sublayer.num_batches))]
    done = []
    for expert in experts:
        num_tokens = [0, 0]
        for b, (x, _) in enumerate(expert.routed):
            num_tokens[expert.is_held_out(b)] += len(x)
        chosen, judged = options, expert
        if num_tokens[0] < sublayer.arch.widths[FFN] or not num_tokens[1]:
            chosen = options.model_copy(update={"compensate": "none"})
            judged = replace(expert, routed=[(x, torch.ones_like(x[:, :1])) for x in all_tokens])
        done += [replace(entry, expert=expert.number) for entry in _narrow_ffn(judged, chosen, keep, seed)]
    write_experts(sublayer, experts)
    return done


def _narrow_ffn(sublayer: Sublayer | Expert, options: Ffn, keep: int, seed: int) -> list[SublayerResult]:
    model, consumer = sublayer.model, sublayer.consumer
    fitted, held_out = _moments(sublayer)
    matrix = read_matrix(model, consumer).to(ACCUMULATE)
    before = len(matrix)
    kept = torch.topk(sublayer.score(options.selector, fitted, seed), keep).indices.sort().values
    shares = MERGES[options.merge](fitted, kept)
    mixed = options.merge != "none"
    targets = [_written(sublayer, b) for b in range(sublayer.num_batches)] if mixed else []
    for producer in sublayer.producers:
        mix_outputs(model, producer, shares / shares.sum(0) if mixed else kept)
    # One after the other: with their sums over the whole width these are the largest matrices of the job.
    fitted = fitted.narrow(kept)
    held_out = held_out.narrow(kept)
    if mixed:
        # Averages before the nonlinearity are not averages behind it: look again at what the neurons do now.
        fitted, held_out = _moments_against(sublayer, targets, keep)
    followed = (shares / shares.sum(1, keepdim=True).clamp(min=torch.finfo(ACCUMULATE).tiny)).T @ matrix
    merges = summarise_plan(shares, kept) if mixed else None
    del shares, matrix
    fit = _refit_consumer(sublayer, followed, options.compensate, fitted, held_out)
    return [SublayerResult(sublayer.layer, FFN, before, keep, tuple(kept.tolist()), fit.fit, merges=merges)]


def _written(sublayer: Sublayer | Expert, batch: int) -> Tensor:
    return sublayer.features(batch) @ read_matrix(sublayer.model, sublayer.consumer)


def _moments(sublayer: Sublayer | Expert) -> tuple[Features, Features]:
    """Features against all that is written from them now, to fit on and held out."""
    matrix = read_matrix(sublayer.model, sublayer.consumer).to(ACCUMULATE)
    sums = [FeatureMoments(len(matrix)) for _ in range(2)]
    for b in range(sublayer.num_batches):
        sums[sublayer.is_held_out(b)].update(sublayer.features(b))
    reduce(*sums)
    held_out = sums.pop().finalize(matrix)
    return sums.pop().finalize(matrix), held_out


def _moments_against(sublayer: Sublayer | Expert, targets: Sequence[Tensor], width: int) -> tuple[Features, Features]:
    """Features, `width` of them now, against what should be written from them, to fit on and held out."""
    sums = [TargetMoments(width, targets[0].shape[1]) for _ in range(2)]
    for b, y in enumerate(targets):
        sums[sublayer.is_held_out(b)].update(sublayer.features(b), y)
    reduce(*sums)
    held_out = sums.pop().finalize()
    return sums.pop().finalize(), held_out


def _refit_consumer(
    sublayer: Sublayer | Expert, initial: Tensor, compensate: Compensate, fitted: Features, held_out: Features
) -> RidgeFit:
    """Write the consumer's new matrix and, where it has one and may change, its bias."""
    model, consumer = sublayer.model, sublayer.consumer
    bias = read_bias(model, consumer)
    intercept = fitted if bias is not None and compensate != "none" else None
    fit = refit(
        fitted.regression(intercept),
        held_out.regression(intercept),
        initial.to(ACCUMULATE),
        FFN_LAMBDAS if compensate == "ridge" else (),
    )
    write_matrix(model, consumer, fit.matrix)
    if bias is not None and intercept is not None:
        write_bias(model, consumer, bias.to(ACCUMULATE) + fitted.target_mean - fitted.mean @ fit.matrix)
    return fit
