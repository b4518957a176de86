"""Collect what passes through the whole model say of its units, before the first layer is narrowed."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from neuromeld.model.learning import steps_of
from neuromeld.model.surgery import read_matrix
from neuromeld.registry import Need
from neuromeld.runtime.distributed import every_batch
from neuromeld.runtime.progress import track
from neuromeld.stages.base import Job
from neuromeld.stages.teaching import is_short, teacher_of
from neuromeld.stats.split import divided
from neuromeld.units.learned import Learned, UnitScores
from neuromeld.units.levels import LevelLosses
from neuromeld.units.pools import Pool
from neuromeld.units.selectors import SELECTORS, measures_levels, sees_whole_model
from neuromeld.units.taylor import taylor_importance


@dataclass(frozen=True)
class Selection:
    """A selector, and the budgets that it chooses under."""

    selector: str
    pools: Sequence[Pool]


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


def importance_for(job: Job, selections: Sequence[Selection]) -> Importance:
    """Return the scores that selectors ask for which see the whole model; none where none do."""
    chosen = [selection for selection in selections if sees_whole_model(selection.selector)]
    felt = [
        member.space
        for one in chosen
        if Need.GRADIENT in SELECTORS[one.selector].needs
        for pool in one.pools
        for member in pool.members
    ]
    every = every_batch(job.data)
    fitted_on = [every[b] for b in divided(len(every))[0]]
    scores = taylor_importance(job.model, job.arch, sorted(set(felt)), fitted_on, light=is_short(job))
    scores |= _level_losses(job, selections)
    pools = [pool for one in chosen if Need.LEARNING in SELECTORS[one.selector].needs for pool in one.pools]
    if not pools:
        return Importance(scores)
    with track("learning what to keep", steps_of(every), enabled=job.progress) as advance:
        learned = UnitScores(teacher_of(job), pools).learned(every, job.journal, advance)
    for member in (member for pool in pools for member in pool.members):
        consumer = job.arch.consumer(member.layer, member.space)
        features = len(read_matrix(job.model, consumer))
        scores[consumer.path] = learned.scores[consumer.path].repeat_interleave(features // member.count)
    return Importance(scores, learned)
