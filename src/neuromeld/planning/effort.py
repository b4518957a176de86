"""Say how much the planner tries before it chooses."""

from collections.abc import Sequence
from dataclasses import dataclass

from neuromeld.planning.candidates import LEARNED_STREAMS, Candidate, SearchSpace, learned_streams
from neuromeld.planning.served import multiples_of
from neuromeld.registry import Registry
from neuromeld.stages.ffn.stage import FFN_MULTIPLE
from neuromeld.units.levels import LEVELS, TOKENS
from neuromeld.units.selectors import learns

BUILDING, LEARNING, COLLECTING = 2.2, 4.0, 1.5
"""Plain forward passes over its data that a candidate is built in, that its units are learned in, and that statistics
of all sublayers are collected in."""

UNPREDICTED = 4
"""Candidates that are built whatever is predicted: the simplest, and those without a prediction."""


@dataclass(frozen=True)
class Effort:
    """An amount of trying.

    built      candidates with a prediction that are built from few tokens, the best first; those without one, and the
               simplest, are built too
    finalists  candidates that are built again from all calibration tokens; several of them, next to the simplest
    learned    of the finalists, the best ones are built once more with units that are chosen by learning; with any,
               narrower streams whose directions are learned are built, too
    measured   losses of some widths of every layer are measured, for candidates that follow them
    """

    name: str
    built: int
    finalists: int
    learned: int = 0
    measured: bool = False

    def forward_tokens(self, few: int, tokens: int, validation: int, layers: int) -> float:
        """Return about how many tokens go through the network in plain forward passes, all in all.

        few, tokens, validation  of the first round, of the calibration data, and of the validation text
        layers                   of the network
        """
        first = (self.built + UNPREDICTED) * (BUILDING * few + validation / 4)
        finalists = (self.finalists + (self.finalists > 1)) * (BUILDING * tokens + validation)
        learned = self.learned and self.learned + 2 * len(LEARNED_STREAMS)  # directions take as long as units
        levels = self.measured * (COLLECTING * tokens + layers * LEVELS * min(TOKENS, validation))
        return levels + first + finalists + learned * ((BUILDING + LEARNING) * tokens + validation)


EFFORTS = Registry(
    "effort",
    {
        effort.name: effort
        for effort in (
            Effort("quick", built=2, finalists=1),
            Effort("standard", built=4, finalists=2),
            Effort("best", built=8, finalists=3, learned=2, measured=True),
        )
    },
)

STANDARD = EFFORTS["standard"]


def learned_candidates(space: SearchSpace, ranked: Sequence[Candidate], effort: Effort) -> list[Candidate]:
    """Return what is built by learning: the best finalists once more, and narrower streams.

    ranked  the finalists, the best first
    """
    if not effort.learned:
        return []
    best = [one for one in (_with_learned_units(space, one) for one in ranked) if one is not None]
    streams = [_with_learned_units(space, one) for one in learned_streams(space)]
    return best[: effort.learned] + [one for one in streams if one is not None]


def _with_learned_units(space: SearchSpace, candidate: Candidate) -> Candidate | None:
    """Return the candidate with FFN neurons, and heads, that are chosen by learning; None where it has none to choose.

    Where its FFNs differ by layer, what each keeps is learned, too: all together keep as many neurons.
    """
    stages = {chosen.stage.name: chosen.options for chosen in candidate.recipe.chosen}
    ffn, heads = stages.get("ffn"), stages.get("heads")
    if ffn is None or learns(ffn.selector) or ffn.size is None:
        return None
    sizes = [ffn.size] if isinstance(ffn.size, int) else [size for size in ffn.size if size]
    if len(sizes) > 1 and FFN_MULTIPLE % multiples_of(space.settings["output"]).by_layer:
        return None  # learned widths are multiples of nothing else
    changed: dict[str, object] = {"size": sum(sizes) // len(sizes), "by_layer": len(sizes) > 1}
    stages["ffn"] = ffn.model_copy(update=changed | {"selector": "learned"})
    if heads is not None:
        stages["heads"] = heads.model_copy(update={"selector": "learned"})
    recipe = space.recipe(**{name: options.model_dump(exclude_none=True) for name, options in stages.items()})
    if not space.fits(recipe):
        return None
    return Candidate(f"{candidate.name}, learned", recipe, None)
