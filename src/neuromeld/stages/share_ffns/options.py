"""The parts of a recipe that treat whole sublayers."""

from typing import Literal, Self

from pydantic import model_validator

from neuromeld.settings import Settings


class _Layers(Settings):
    """`count` adjacent layers where that hurts least, or `layers`, any of them, counted from 0."""

    count: int | None = None
    layers: tuple[int, ...] | None = None

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if (self.count is None) == (self.layers is None):
            raise ValueError("give one of count and layers")
        if self.count is not None and self.count < 1:
            raise ValueError(f"count={self.count} must be at least 1")
        if self.layers is not None and (not self.layers or min(self.layers) < 0):
            raise ValueError(f"layers={list(self.layers)} must be at least one layer, counted from 0")
        return self

    @property
    def number(self) -> int:
        """How many layers are meant."""
        if self.layers is not None:
            return len(set(self.layers))
        assert self.count is not None
        return self.count


class DropLayers(_Layers):
    """Remove layers: `count` adjacent ones where that hurts least, or `layers`, any of them, counted from 0."""


class RemoveFfns(_Layers):
    """Remove FFNs and keep attention: `count` adjacent ones where that hurts least, or those of `layers`."""


class ShareFfns(Settings):
    """Let adjacent FFNs share one set of weights: `count` where that hurts least, or those of `window`.

    window      first and last layer, counted from 0
    anchor      the member whose order of hidden units the others take
    align       `permute` matches hidden units, `none` takes them as they are numbered
    combine     `average` of the units that were matched, or the `strongest` of them; None is the strongest where the
                output matrix is refitted, which then has more to build on, and else the average
    compensate  `ridge` refits the shared output matrix on what each member wrote
    gain        `channel` gives every member a factor of its own for each output of the shared matrix; `scale` fits
                anew the factors that the model has behind each FFN, which takes no parameter
    rank        every member gets a matrix of this rank of its own beside the shared output matrix; 0 is none
    """

    count: int | None = None
    window: tuple[int, int] | None = None
    anchor: Literal["first", "middle", "last"] = "first"
    align: Literal["permute", "none"] = "permute"
    combine: Literal["average", "strongest"] | None = None
    compensate: Literal["ridge", "none"] = "ridge"
    gain: Literal["channel", "scale", "none"] = "none"
    rank: int = 0

    @model_validator(mode="after")
    def _one_target(self) -> "ShareFfns":
        if (self.count is None) == (self.window is None):
            raise ValueError("give one of count and window")
        if self.count is not None and self.count < 1:
            raise ValueError(f"count={self.count} must be at least 1")
        if self.window is not None and not 0 <= self.window[0] <= self.window[1]:
            raise ValueError(f"window={list(self.window)} must be first and last layer, counted from 0")
        if self.rank < 0:
            raise ValueError(f"rank={self.rank} must be 0 or more")
        if self.rank and self.gain == "scale":
            raise ValueError("gain=scale is fitted without a rank: leave rank out, or use channel")
        if self.length < 2:
            raise ValueError("at least two FFNs are needed to share weights")
        return self

    @property
    def combined(self) -> Literal["average", "strongest"]:
        """What `combine` means."""
        return self.combine or ("strongest" if self.compensate == "ridge" else "average")

    @property
    def length(self) -> int:
        """How many layers the window spans."""
        if self.window is not None:
            return self.window[1] - self.window[0] + 1
        assert self.count is not None
        return self.count
