"""Collect what passes through the whole model say of its units, before the first layer is narrowed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from neuromeld.archs.spec import Space
from neuromeld.model.layerwise import walk_layers
from neuromeld.model.learning import steps_of
from neuromeld.model.surgery import read_bias, read_matrix
from neuromeld.registry import Need
from neuromeld.runtime.progress import track
from neuromeld.stages.base import Job, Workload, largest_layer_bytes
from neuromeld.stages.operations import READ_TOKENS
from neuromeld.stages.teaching import LIGHT_FROM, allowed_bytes, check_alone, is_short, teacher_of
from neuromeld.stats.split import held_out_here
from neuromeld.units.learned import Learned, UnitScores
from neuromeld.units.levels import LevelLosses
from neuromeld.units.pools import Pool
from neuromeld.units.refitted import Choices, Read
from neuromeld.units.selectors import SELECTORS, measures_levels, sees_whole_model
from neuromeld.units.sublayer import Sublayer
from neuromeld.units.sublayer import moments as moments_of
from neuromeld.units.taylor import taylor_importance


@dataclass(frozen=True)
class Selection:
    """A selector, and the budgets that it chooses under.

    refits  spaces whose consumers are refitted for what was chosen
    """

    selector: str
    pools: Sequence[Pool]
    refits: frozenset[Space] = frozenset()


@dataclass(frozen=True)
class Importance:
    """Scores of the features of each sublayer, `(f,)`, by the path of what reads them, and how they were learned."""

    scores: dict[str, Tensor]
    learned: Learned | None = None


def _level_losses(job: Job, selections: Sequence[Selection]) -> dict[str, Tensor]:
    """Return what is measured of widths, where a selector asks for it and layers share a budget."""
    measuring = [one for one in selections if measures_levels(one.selector)]
    first = [pool.members[0] for one in measuring for pool in one.pools if pool.compares]
    counts = {member.space: member.count for member in first}
    if not counts:
        return {}
    with track("measuring widths of layers", job.arch.num_layers, enabled=job.progress) as advance:
        return LevelLosses(job.model, job.arch, counts).measured(job.data, job.validation, job.journal, advance)


def _read(job: Job, learning: Sequence[Selection]) -> dict[str, Read]:
    """Return what consumers read that are refitted for a choice, by path: of the first of the data."""
    arch, journal = job.arch, job.journal
    members = [m for one in learning for pool in one.pools for m in pool.members if m.space in one.refits]
    places = {(member.space, member.layer): member for member in members}
    widest = max((arch.widths[space] for space, _ in places), default=0)
    size = next(iter(job.data[0].values())).numel()
    data, found = job.data[: math.ceil(READ_TOKENS * widest / size)], {}
    with track("what units stand in for", arch.num_layers, enabled=job.progress and bool(places)) as advance:
        for inputs in walk_layers(job.model, arch, data, offload=journal.offload) if places else ():
            for space in Space:
                if (space, inputs.index) in places:
                    sublayer = Sublayer(job.model, inputs, space)
                    moments, _ = moments_of(sublayer)
                    through = moments if read_bias(job.model, sublayer.consumer) is not None else None
                    gram = moments.regression(through).gram
                    found[sublayer.consumer.path] = Read(
                        sublayer.consumer,
                        journal.offload(gram.float()),
                        None if through is None else moments.mean,
                        len(gram) // places[space, inputs.index].count,
                    )
            advance(inputs.index + 1)
    return found


def choosing_bytes(work: Workload, features: int, layers: int, *, light: bool) -> int:
    """Predict what refits take while units are learned: moments of layers, on the disk in a light job, and choices."""
    d, weights = work.arch.width, layers * largest_layer_bytes(work)
    held, refit = layers * _held_bytes(features, d), 8 * 5 * features * (features + d)
    if light:
        return refit
    return refit + layers * 4 * features**2 + (held if held <= max(LIGHT_FROM, weights) else 0)


def _held_bytes(features: int, width: int) -> int:
    """Return what the last choice of a layer takes that is held."""
    return 4 * features * (features + 2 * width)


def importance_for(job: Job, selections: Sequence[Selection]) -> Importance:
    """Return the scores that selectors ask for which see the whole model; none where none do."""
    chosen = [selection for selection in selections if sees_whole_model(selection.selector)]
    if chosen:
        check_alone()
    felt = [
        member.space
        for one in chosen
        if Need.GRADIENT in SELECTORS[one.selector].needs
        for pool in one.pools
        for member in pool.members
    ]
    fitted_on = [batch for b, batch in enumerate(job.data) if not held_out_here(job.data, b)]
    scores = taylor_importance(job.model, job.arch, sorted(set(felt)), fitted_on, light=is_short(job))
    scores |= _level_losses(job, selections)
    learning = [one for one in chosen if Need.LEARNING in SELECTORS[one.selector].needs]
    pools = [pool for one in learning for pool in one.pools]
    if not pools:
        return Importance(scores)
    read = _read(job, learning)
    held = sum(_held_bytes(len(one.gram), job.arch.width) for one in read.values())
    choices = Choices(job.model, read, keep=not is_short(job) and held <= allowed_bytes(job.model))
    with track("learning what to keep", steps_of(job.data), enabled=job.progress) as advance:
        learned = UnitScores(teacher_of(job), pools, choices).learned(job.data, job.journal, advance)
    for member in (member for pool in pools for member in pool.members):
        consumer = job.arch.consumer(member.layer, member.space)
        features = len(read_matrix(job.model, consumer))
        scores[consumer.path] = learned.scores[consumer.path].repeat_interleave(features // member.count)
    return Importance(scores, learned)
