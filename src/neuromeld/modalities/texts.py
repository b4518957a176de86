"""Token windows to calibrate, to choose and to train on: of one text, of several by weight, or of the model's own."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from neuromeld.data.calibration import Calibration
from neuromeld.data.mixture import OWN, Part, divided, parse_mixture
from neuromeld.data.splits import Split
from neuromeld.data.text import TokenWindows, spread_windows, token_windows, with_digest
from neuromeld.errors import UserInputError
from neuromeld.modalities.own_text import OwnText


@dataclass(frozen=True)
class Texts:
    """The text of some settings; `own` writes what is to be the model's own, None where there is no model at hand.

    Where nothing was asked for, and windows are too few for all parts of `source`, they are of the first.
    """

    settings: Calibration
    source: str
    tokenizer: PreTrainedTokenizerBase
    own: OwnText | None

    def calibration(self, tokens: int) -> TokenWindows:
        """Return `tokens // seqlen` windows of the calibration split, by weight, in an order drawn by the seed."""
        return self._mixed("calibration", self._shares(tokens // self.settings.seqlen))

    def validation(self, most: int) -> TokenWindows:
        """Return up to `most` tokens of the validation split, by weight, and one window of each text at least."""
        shares = self._shares(max(len(self._parts), most // self.settings.seqlen))
        return self._mixed("validation", shares)

    def training(self) -> TokenWindows:
        """Return all of the calibration split of a text; of a mixture, as much as its weights allow without repeats.

        Of the model's own text there is as much as its weight is of `tokens` of the settings, and at most what
        `OwnText` writes to train on.
        """
        weights = [part.weight for part in self._parts]
        if len(self._parts) == 1 and self._parts[0].source != OWN:
            return self._windows(self._parts[0], "calibration", None)
        there = [
            self._own_windows(part.weight / sum(weights))
            if part.source == OWN
            else len(self._windows(part, "calibration", None).input_ids)
            for part in self._parts
        ]
        total = int(min(count * sum(weights) / weight for count, weight in zip(there, weights, strict=True)))
        return self._mixed("calibration", self._shares(total))

    def _own_windows(self, share: float) -> int:
        """Return how many windows the model writes to train on: all that this share of the tokens is read of."""
        most = 1 if self.own is None else self.own.most_to_train_on
        return max(1, min(most, math.ceil(share * self.settings.tokens)) // self.settings.seqlen)

    @property
    def _parts(self) -> list[Part]:
        return parse_mixture(self.source)

    def _shares(self, num_windows: int) -> list[int]:
        shares = divided(num_windows, [part.weight for part in self._parts])
        if not all(shares) and self.settings.source is None:
            return [num_windows, *(0 for _ in shares[1:])]
        if not all(shares):
            left_out = [part.source for part, share in zip(self._parts, shares, strict=True) if not share]
            raise UserInputError(
                f"{self.source}: of {num_windows} windows of {self.settings.seqlen} tokens none is left for "
                f"{', '.join(left_out)}; ask for more tokens, shorter windows, or other weights"
            )
        return shares

    def _mixed(self, split: Split, shares: Sequence[int]) -> TokenWindows:
        parts = zip(self._parts, shares, strict=True)
        found = [self._windows(part, split, share) for part, share in parts if share]
        if len(found) == 1:
            return found[0]
        order = list(range(sum(len(windows.input_ids) for windows in found)))
        random.Random(self.settings.seed).shuffle(order)
        ids = torch.cat([windows.input_ids for windows in found])[order]
        return with_digest(ids, self.source, split, None)

    def _windows(self, part: Part, split: Split, num_windows: int | None) -> TokenWindows:
        """Return windows of one text; all there are for None."""
        settings = self.settings
        if part.source == OWN:
            if self.own is None:
                raise UserInputError(
                    f"{OWN!r} is text that a language model writes itself, which predicts the next token; this model "
                    "does not, or is not at hand as a checkpoint: give a named text or file:PATH"
                )
            assert num_windows is not None
            return self.own.windows(settings, split, num_windows)
        tokens = None if num_windows is None else num_windows * settings.seqlen
        if split == "validation":
            assert tokens is not None
            return spread_windows(part.source, self.tokenizer, split=split, most=tokens, seqlen=settings.seqlen)
        return token_windows(
            part.source, self.tokenizer, split=split, num_tokens=tokens, seqlen=settings.seqlen, seed=settings.seed
        )
