"""Keep what one budget found out that others of the same model need not find out again."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from neuromeld.planning.candidates import Candidate
from neuromeld.planning.sensitivity import FisherScores


@dataclass
class Shared:
    """Sensitivities, losses of the original by text, and the names of the candidates that came to a last round."""

    scores: FisherScores | None = None
    dense: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    finalists: set[str] = field(default_factory=set)

    def led(self, everything: Sequence[Candidate]) -> list[Candidate]:
        """Return the candidates of the kinds that came to a last round before; none where no budget was met yet."""
        return [one for one in everything if one.name in self.finalists]
