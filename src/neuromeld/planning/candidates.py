"""Ways to spend a budget, each a recipe that just meets it, with the loss that the sensitivities predict."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from neuromeld.archs.resolve import Architecture
from neuromeld.archs.sizes import embedding_share, sizes_of
from neuromeld.archs.spec import Space
from neuromeld.errors import NeuromeldError
from neuromeld.planning.allocate import CHUNK, Allocation, Layered
from neuromeld.planning.budget import Budget
from neuromeld.planning.largest import largest, smallest
from neuromeld.planning.latency import MARGIN, TimeTable
from neuromeld.planning.plan import make_plan
from neuromeld.planning.recipe import Recipe, parse_recipe
from neuromeld.planning.sensitivity import FisherScores, UnitLosses
from neuromeld.planning.served import SERVED, multiples_of, unserved
from neuromeld.stages.experts import possible_counts
from neuromeld.stages.ffn.stage import FFN_MULTIPLE
from neuromeld.stages.vocabulary import VocabularyRange

DROPPED = (1, 2, 3, 4, 6)
"""Numbers of layers that are dropped before FFNs are narrowed."""

MERGED = (2, 3, 5)
"""Numbers of FFNs in a row that are merged into one before all are narrowed."""

TOKENS = (0.75, 0.5, 0.25)
"""Shares of the tokens that are left before FFNs are narrowed."""

EXPERTS = (0.75,)
"""Shares of the experts that are left before FFNs are narrowed."""

RANKS = (0.85, 0.7)
"""Shares of the width that an embedding is left with before FFNs are narrowed."""

LARGE_EMBEDDING = 1 / 3
"""The share of the parameters from which on a narrower embedding is tried: of less, it is a poor bargain."""

LEARNED_STREAMS = (0.95, 0.9)
"""Kept shares of the residual stream that are tried with directions that are learned."""

RATIOS = [step / 200 for step in range(40, 200)]
"""Kept shares of the residual stream that are tried."""


@dataclass(frozen=True)
class Candidate:
    """`predicted` is in nats per token, before compensation; None where the sensitivities do not tell."""

    name: str
    recipe: Recipe
    predicted: float | None

    @property
    def narrows_stream(self) -> bool:
        """Whether the residual stream gets narrower, alone or with others."""
        return any(chosen.stage.name == "width" for chosen in self.recipe.chosen)


@dataclass(frozen=True)
class Shrunk:
    """Stages that may do, or that FFNs are narrowed after; those of the layers `gone` are gone, or count as such."""

    name: str
    lost: float
    gone: Sequence[int]
    stages: dict[str, Any]


@dataclass(frozen=True)
class SearchSpace:
    """Model, budget and sensitivities that candidates are made for, and the vocabularies that may be had of a text.

    losses  measured, of units; None where that was not done
    times   measured, of sizes, where the budget is of time
    """

    model: PreTrainedModel
    arch: Architecture
    budget: Budget
    scores: FisherScores
    settings: dict[str, Any]
    vocabulary: VocabularyRange | None = None
    losses: UnitLosses | None = None
    times: TimeTable | None = None

    @property
    def of_experts(self) -> bool:
        """Whether FFNs are experts, whose neurons have no scores."""
        return self.arch.consumer(self.arch.layers_with(Space.FFN)[0], Space.FFN).stacked

    @property
    def has_large_embedding(self) -> bool:
        """Whether much of the model is embedding."""
        return embedding_share(self.model, self.arch) >= LARGE_EMBEDDING

    def recipe(self, **stages: Any) -> Recipe:
        return parse_recipe(self.settings | {name: stage for name, stage in stages.items() if stage is not None})

    def fits(self, recipe: Recipe) -> bool:
        """Tell whether the budget allows it; a recipe that the model refuses does not fit."""
        try:
            if self.times is None:
                return self.budget.share(self.model, recipe, self.arch) <= 1
            assert self.budget.keep is not None
            return self.times.ratio(make_plan(self.model, recipe, arch=self.arch).after) <= self.budget.keep - MARGIN
        except NeuromeldError:
            return False


def candidates(space: SearchSpace) -> list[Candidate]:
    """Return all candidates that meet the budget, the simplest first.

    Those that only the native format holds are left out where it may not be used.  Where no format is asked for, what
    neither transformers nor the engines `SERVED` load without neuromeld's code is left out, unless nothing else is
    left.
    """
    found = [*_uniform(space), *_until_one_fits(space, _with_layers_dropped(space)), *_narrower_stream(space)]
    found += [*_fewer_experts(space), *_fewer_tokens(space)]
    if space.settings["output"] != "stock":
        found += [*_until_one_fits(space, _with_ffns_merged(space)), *_by_layer(space)]
    found += _narrower_embedding(space)
    return _that_load_widely(space, found) or found


def learned_streams(space: SearchSpace) -> list[Candidate]:
    """Return candidates with a stream whose directions are learned, and narrower FFNs."""
    if not _has_streams(space):
        return []
    found: list[Candidate] = []
    for share in LEARNED_STREAMS:
        name = f"residual stream {1 - share:.0%} narrower, narrower FFNs"
        found += _narrow_ffns(space, name, None, width={"hidden_ratio": share, "selector": "learned"})
    return _that_load_widely(space, found)


def _that_load_widely(space: SearchSpace, found: list[Candidate]) -> list[Candidate]:
    """Return those that the engines `SERVED` load, where no format is asked for; else all."""
    return [one for one in found if space.settings["output"] != "auto" or _loads_widely(space, one.recipe)]


def _loads_widely(space: SearchSpace, recipe: Recipe) -> bool:
    plan = make_plan(space.model, recipe, arch=space.arch)
    if plan.format == "stock":
        return True
    return not unserved(SERVED, plan.model_type, space.model.config, plan.before, plan.served, native=True)


def _uniform(space: SearchSpace) -> Iterator[Candidate]:
    yield from _narrow_ffns(space, "narrower FFNs")
    groups = sizes_of(space.arch, space.model.config).num_kv_heads[0]
    if groups > 1:
        lost = sum(_cheapest_groups(scores, groups, groups - 1) for scores in space.scores.heads)
        yield from _narrow_ffns(
            space, "one group of heads less, narrower FFNs", lost, heads={"num_kv_heads": groups - 1}
        )


def _until_one_fits(space: SearchSpace, shrunk: Iterable[Shrunk]) -> Iterator[Candidate]:
    """Yield what meets the budget by itself, and end there; what does not, with narrower FFNs."""
    for one in shrunk:
        recipe = space.recipe(**one.stages)
        if space.fits(recipe):
            yield Candidate(one.name, recipe, one.lost)
            return
        yield from _narrow_ffns(space, f"{one.name}, narrower FFNs", one.lost, one.gone, **one.stages)


def _with_layers_dropped(space: SearchSpace) -> Iterator[Shrunk]:
    ranked = sorted(range(space.arch.num_layers), key=lambda layer: space.scores.layers[layer])
    for count in DROPPED:
        if count >= space.arch.num_layers // 2:
            return
        gone = sorted(ranked[:count])
        lost = sum(space.scores.layers[layer] for layer in gone)
        yield Shrunk(f"{count} layer{'s' * (count > 1)} dropped", lost, gone, {"drop_layers": {"layers": gone}})


def _with_ffns_merged(space: SearchSpace) -> Iterator[Shrunk]:
    """Merge the FFNs in a row that carry least; what all but the most informative of them carry counts as lost."""
    carried = [float(scores.sum()) for scores in space.scores.ffn]
    for count in MERGED:
        if count > space.arch.num_layers // 2:
            return
        windows = [range(first, first + count) for first in range(space.arch.num_layers - count + 1)]
        window = min(windows, key=lambda layers: sum(carried[layer] for layer in layers))
        gone = sorted(window, key=lambda layer: carried[layer])[:-1]
        lost = sum(carried[layer] for layer in gone)
        stages = {"share_ffns": {"window": [window[0], window[-1]]}}
        yield Shrunk(f"{count} FFNs merged", lost, gone, stages)


def _narrower_stream(space: SearchSpace) -> Iterator[Candidate]:
    if not _has_streams(space):
        return
    ratio = largest(RATIOS, lambda ratio: space.fits(space.recipe(width={"hidden_ratio": ratio})))
    if ratio is not None:
        yield Candidate("narrower residual stream", space.recipe(width={"hidden_ratio": ratio}), None)
    yield from _narrow_ffns(space, "residual stream 5 % narrower, narrower FFNs", None, width={"hidden_ratio": 0.95})


def _has_streams(space: SearchSpace) -> bool:
    return space.settings["output"] != "stock" or bool(space.arch.spec.config_keys(Space.RESIDUAL))


def _fewer_experts(space: SearchSpace) -> Iterator[Candidate]:
    """Yield the most experts that meet the budget by themselves, and more of them with narrower ones."""
    counts = possible_counts(space.arch)

    def stage(count: float) -> dict[str, Any]:
        return {"experts": {"count": int(count)}}

    alone = largest(counts, lambda count: space.fits(space.recipe(**stage(count))))
    for share in EXPERTS:
        more = [count for count in counts if (alone or 0) < count <= share * space.arch.experts]
        if more:
            yield from _narrow_ffns(space, f"{share} of the experts, narrower FFNs", None, **stage(more[-1]))
    if alone is not None:
        yield Candidate("fewer experts", space.recipe(**stage(alone)), None)


def _fewer_tokens(space: SearchSpace) -> Iterator[Candidate]:
    """Yield the most tokens that meet the budget by themselves, and more of them with narrower FFNs."""
    choices = space.vocabulary
    if choices is None:
        return

    def stage(size: float) -> dict[str, Any]:
        return {"vocabulary": {"text": choices.text, "size": int(size)}}

    alone = largest(choices.sizes, lambda size: space.fits(space.recipe(**stage(size))))
    for share in TOKENS:
        size = choices.at(share)
        if size is None or size <= (alone or 0):
            continue
        yield from _narrow_ffns(space, f"{share} of the tokens, narrower FFNs", None, **stage(size))
        if space.settings["output"] != "stock":
            found = _layered(space, f"{share} of the tokens, FFNs narrowed by layer", None, **stage(size))
            yield from (replace(one, predicted=None) for one in found)
    if alone is not None:
        yield Candidate("fewer tokens", space.recipe(**stage(alone)), None)


def _narrower_embedding(space: SearchSpace) -> Iterator[Candidate]:
    """Yield the widest embedding that meets the budget by itself, and wider ones with narrower FFNs."""
    if not space.has_large_embedding:
        return
    ranks = range(2, space.arch.width)
    alone = largest(ranks, lambda rank: space.fits(space.recipe(embedding={"rank": rank})))
    for share in RANKS:
        if share * space.arch.width > (alone or 0):
            name = f"embedding of {share} of the width, narrower FFNs"
            yield from _narrow_ffns(space, name, None, embedding={"rank": share})
    if alone is not None:
        yield Candidate("narrower embedding", space.recipe(embedding={"rank": alone}), None)


def _by_layer(space: SearchSpace) -> Iterator[Candidate]:
    yield from _layered(space, "FFNs narrowed by layer", None)
    if sizes_of(space.arch, space.model.config).num_kv_heads[0] > 1:
        yield from _layered(space, "FFNs and heads narrowed by layer", space.scores.heads)
    yield from _by_measured_levels(space)
    for one in _with_layers_dropped(space):
        if space.fits(space.recipe(**one.stages)):
            return
        for found in _layered(space, f"{one.name}, FFNs narrowed by layer", None, one.gone, **one.stages):
            yield replace(found, predicted=(found.predicted or 0.0) + one.lost)


def _by_measured_levels(space: SearchSpace) -> Iterator[Candidate]:
    """Yield what loses least by the losses that were measured, if the losses of layers add up."""
    if space.losses is None:
        return
    measured = replace(space, scores=replace(space.scores, ffn=space.losses.ffn))
    kinds = [("FFNs", None), *([("FFNs and heads", space.losses.heads)] if space.losses.heads else [])]
    for kind, heads in kinds:
        for one in _layered(measured, f"{kind} narrowed by measured levels", heads):
            yield replace(one, recipe=_chosen_by_obs(space, one.recipe), predicted=None)


def _chosen_by_obs(space: SearchSpace, recipe: Recipe) -> Recipe:
    stages = {one.stage.name: one.options.model_copy(update={"selector": "obs"}) for one in recipe.chosen}
    return space.recipe(**{name: options.model_dump(exclude_none=True) for name, options in stages.items()})


def _layered(
    space: SearchSpace, name: str, heads: Sequence[Tensor] | None, without: Sequence[int] = (), **stages: Any
) -> Iterator[Candidate]:
    """Yield widths by layer, of groups of `heads`, too, where their scores are given, at the lowest threshold.

    without  layers that are gone
    """
    if space.of_experts:
        return
    groups = sizes_of(space.arch, space.model.config).num_kv_heads[0]
    chunk = math.lcm(CHUNK, multiples_of(space.settings["output"]).by_layer)
    ffn = [scores for layer, scores in enumerate(space.scores.ffn) if layer not in without]

    allocation = Allocation(space.arch, ffn, heads, groups, chunk)

    def recipe_of(sizes: Layered) -> Recipe:
        narrower = None if heads is None else {"num_kv_heads": sizes.num_kv_heads}
        return space.recipe(ffn={"size": sizes.ffn}, heads=narrower, **stages)

    threshold = smallest(allocation.thresholds, lambda threshold: space.fits(recipe_of(allocation.at(threshold))))
    if threshold is not None:
        sizes = allocation.at(threshold)
        yield Candidate(name, recipe_of(sizes), sizes.lost)


def _narrow_ffns(
    space: SearchSpace, name: str, lost: float | None = 0.0, without: Sequence[int] = (), **stages: Any
) -> Iterator[Candidate]:
    """Return the widest FFNs, all of one width, with which the budget is met; those of some layers are gone anyway."""
    full = space.arch.widths[Space.FFN]
    multiple = math.lcm(128 if full >= 2048 else FFN_MULTIPLE, multiples_of(space.settings["output"]).alike)

    def recipe_of(size: float) -> Recipe:
        return space.recipe(ffn={"size": int(size)}, **stages)

    size = largest(range(multiple, full + 1, multiple), lambda size: space.fits(recipe_of(size)))
    if size is None:
        return
    if space.of_experts:
        lost = None
    if lost is not None:
        gone = full - int(size)
        kept = (scores for layer, scores in enumerate(space.scores.ffn) if layer not in without)
        lost += sum(float(scores.sort().values[:gone].sum()) for scores in kept)
    yield Candidate(name, recipe_of(size), lost)


def _cheapest_groups(scores: Any, groups: int, keep: int) -> float:
    return float(scores.view(groups, -1).sum(1).sort().values[: groups - keep].sum())
