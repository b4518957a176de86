"""Choose the tokens that stay: the most used ones, with all that they are made from."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from neuromeld.errors import UserInputError
from neuromeld.stages.vocabulary.pieces import Pieces, closed


@dataclass(frozen=True)
class Ranking:
    """Tokens in the order in which they are worth keeping, as ids.

    required   stay whatever is asked for
    ranked     the others, the most used first, of equals the one with the lowest id
    makers     ids of what a token is made from, itself included
    """

    required: frozenset[int]
    ranked: tuple[int, ...]
    makers: Mapping[int, frozenset[int]]
    counts: Int64[np.ndarray, " vocab"]

    def first(self, size: int) -> list[int]:
        """Return `size` tokens, ascending: the required, and of the others the first that fit with their makers.

        `UserInputError` where the required are more.
        """
        if len(self.required) > size:
            raise UserInputError(
                f"a vocabulary of {size:,} is too small: {len(self.required):,} tokens stay always (bytes or letters, "
                "special and added tokens, what configs and the chat template name, and what these are made from)"
            )
        kept = set(self.required)
        for token in self.ranked:
            more = self.makers[token] - kept
            if len(kept) + len(more) <= size:
                kept |= more
        return sorted(kept)

    def smallest_covering(self, share: float) -> int:
        """Return how many tokens make up this share of all uses."""
        kept = set(self.required)
        wanted = share * self.counts.sum()
        covered = int(self.counts[list(kept)].sum())
        for token in self.ranked:
            if covered >= wanted:
                break
            more = list(self.makers[token] - kept)
            covered += int(self.counts[more].sum())
            kept |= set(more)
        return len(kept)


def rank_tokens(
    pieces: Pieces, named: Mapping[str, int], required: Iterable[int], counts: Int64[np.ndarray, " vocab"]
) -> Ranking:
    """Rank the tokens of a tokenizer.

    named     the id of every token, added ones included
    required  ids that stay, beside those without which the model could not split some text
    """
    token_of = {number: token for token, number in named.items()}
    keep = closed(pieces, pieces.always() | {token_of[number] for number in required})
    stay = frozenset(named[token] for token in keep)
    ranked = sorted(set(pieces.ids.values()) - stay, key=lambda token: (-counts[token], token))
    makers = {token: frozenset(named[one] for one in closed(pieces, [token_of[token]])) for token in ranked}
    return Ranking(stay, tuple(ranked), makers, counts)
