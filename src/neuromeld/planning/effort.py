"""How much the planner tries before it chooses."""

from dataclasses import dataclass

from neuromeld.planning.candidates import Candidate, SearchSpace
from neuromeld.registry import Registry
from neuromeld.units.selectors import learns


@dataclass(frozen=True)
class Effort:
    """An amount of trying.

    about      plain forward passes over the calibration data that it comes to
    built      candidates with a prediction that are built from few tokens, the best first; those without one, and the
               simplest, are built too
    finalists  candidates that are built again from all calibration tokens, next to the simplest; with none, the best
               from few tokens is taken
    learned    of the finalists, the best ones are built once more with units that are chosen by learning
    """

    name: str
    about: int
    built: int
    finalists: int
    learned: int = 0


EFFORTS = Registry(
    "effort",
    {
        effort.name: effort
        for effort in (
            Effort("quick", about=3, built=2, finalists=0),
            Effort("standard", about=12, built=4, finalists=2),
            Effort("best", about=60, built=8, finalists=3, learned=2),
        )
    },
)

STANDARD = EFFORTS["standard"]


def with_learned_units(space: SearchSpace, candidate: Candidate) -> Candidate | None:
    """Return the candidate with FFN neurons, and heads, that are chosen by learning; None where it has none to choose.

    Where its FFNs differ by layer, what each keeps is learned, too: all together keep as many neurons.
    """
    stages = {chosen.stage.name: chosen.options for chosen in candidate.recipe.chosen}
    ffn, heads = stages.get("ffn"), stages.get("heads")
    if ffn is None or learns(ffn.selector) or ffn.size is None:
        return None
    sizes = [ffn.size] if isinstance(ffn.size, int) else [size for size in ffn.size if size]
    changed: dict[str, object] = {"size": sum(sizes) // len(sizes), "by_layer": len(sizes) > 1}
    stages["ffn"] = ffn.model_copy(update=changed | {"selector": "learned"})
    if heads is not None:
        stages["heads"] = heads.model_copy(update={"selector": "learned"})
    recipe = space.recipe(**{name: options.model_dump(exclude_none=True) for name, options in stages.items()})
    if not space.fits(recipe):
        return None
    return Candidate(f"{candidate.name}, learned", recipe, None)
