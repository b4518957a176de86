"""A statistic is a set of named sums: what adds up can be streamed, merged, reduced over ranks and resumed."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from neuromeld.errors import NumericsError, UserInputError
from neuromeld.runtime.distributed import num_ranks, sum_tensor
from neuromeld.runtime.memory import all_finite
from neuromeld.shapes import ACCUMULATE
from neuromeld.stats.gram import Gram, fill_upper

TOKENS_PER_BLOCK = 1024
"""Bounds the float64 copies that an update makes; larger blocks are no faster (docs/decisions/0002)."""


class Statistic(ABC):
    """Sums over tokens, in float64.

    Law: `s.update(x); t.update(y); s.merge(t)` leaves in `s` what `s.update(cat([x, y]))` would.
    A subclass names its sums and their shapes, and says in `_terms` what a block of tokens adds to each; `settings` is
    everything that must be equal for two of them to be added.  `grams` are the sums of `Gram` terms.
    """

    def __init__(self, settings: Hashable, grams: Collection[str] = (), **shapes: tuple[int, ...]) -> None:
        self._settings = settings
        self._grams = grams
        self._sums = {
            name: torch.zeros(shape, dtype=ACCUMULATE) for name, shape in {"num_tokens": (), **shapes}.items()
        }

    @abstractmethod
    def _terms(self, *blocks: Any, **no_keywords: Any) -> Mapping[str, Tensor | Gram]:
        """Return what a block of tokens adds to each sum but `num_tokens`, from the tensors that `update` was given."""

    @torch.no_grad()
    def update(self, *activations: Float[Tensor, "n _"]) -> None:
        """Add a batch of tokens: tensors `(n, width)` that agree in `n`, padding removed, any float dtype."""
        for blocks in zip(*(torch.split(tensor, TOKENS_PER_BLOCK) for tensor in activations), strict=True):
            num_tokens = torch.tensor(len(blocks[0]), dtype=ACCUMULATE, device=blocks[0].device)
            self._add(num_tokens=num_tokens, **self._terms(*blocks))

    @property
    def num_tokens(self) -> int:
        return int(self._sums["num_tokens"])

    def merge(self, other: "Statistic") -> None:
        """Add what `other` has seen."""
        if type(other) is not type(self) or other._settings != self._settings:
            raise UserInputError(
                f"cannot merge {type(other).__name__}{other._settings} into {type(self).__name__}{self._settings}"
            )
        self._add(**other._sums)

    def state(self) -> dict[str, Tensor]:
        """Return every sum by name, as it is until the next update; of `Gram` terms, the lower triangle.

        Adding the states of two statistics, tensor by tensor, merges them.
        """
        return dict(self._sums)

    def load_state(self, state: Mapping[str, Tensor], device: torch.device | None = None) -> None:
        """Take the sums of a `state()`, where they are or onto a device, and forget those of before."""
        expected = {name: tuple(value.shape) for name, value in self._sums.items()}
        given = {name: tuple(value.shape) for name, value in state.items()}
        if given != expected:
            raise UserInputError(f"this state is of another statistic: it holds {given}, expected {expected}")
        self._sums = {name: value.to(device, ACCUMULATE, copy=True) for name, value in state.items()}

    def _add(self, **terms: Tensor | Gram) -> None:
        # In place; the sums follow the activations' device.
        for name, term in terms.items():
            values = term.x if isinstance(term, Gram) else term
            total = self._sums[name] = self._sums[name].to(values.device)
            if isinstance(term, Gram):
                term.add_to(total)
            else:
                total += term

    def _means(self) -> dict[str, Tensor]:
        """Divide every sum by the number of tokens; refuse an empty statistic and one that met NaN or infinity."""
        if self.num_tokens == 0:
            raise UserInputError(f"{type(self).__name__} has seen no tokens: calibrate with at least one")
        broken = [name for name, value in self._sums.items() if not all_finite(value)]
        if broken:
            raise NumericsError(
                f"{type(self).__name__}: {', '.join(broken)} not finite after {self.num_tokens} tokens. "
                "The activations hold NaN or infinity; if the model runs in float16, calibrate in bfloat16 or float32"
            )
        return {
            name: (fill_upper(value) if name in self._grams else value) / self.num_tokens
            for name, value in self._sums.items()
            if name != "num_tokens"
        }


def reduce(*statistics: Statistic) -> None:
    """Let each statistic hold the sums of all ranks.  `LostRankError` where another rank has ended."""
    if num_ranks() == 1:
        return
    for statistic in statistics:
        statistic.load_state({name: sum_tensor(value) for name, value in statistic.state().items()})
