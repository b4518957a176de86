"""The parts of a recipe that treat whole sublayers."""

from typing import Literal

from pydantic import model_validator

from neuromeld.settings import Frozen


class _Windowed(Frozen):
    count: int | None = None
    window: tuple[int, int] | None = None

    @model_validator(mode="after")
    def _one_target(self) -> "_Windowed":
        if (self.count is None) == (self.window is None):
            raise ValueError("give one of count and window")
        if self.count is not None and self.count < 1:
            raise ValueError(f"count={self.count} must be at least 1")
        if self.window is not None and not 0 <= self.window[0] <= self.window[1]:
            raise ValueError(f"window={list(self.window)} must be first and last layer, counted from 0")
        return self

    @property
    def length(self) -> int:
        """How many layers the window spans."""
        if self.window is not None:
            return self.window[1] - self.window[0] + 1
        assert self.count is not None
        return self.count


class DropLayers(_Windowed):
    """Remove adjacent layers: `count` of them where that hurts least, or those of `window`, first and last."""


class MergeFfs(_Windowed):
    """Let adjacent FFNs share one set of weights: `count` where that hurts least, or those of `window`.

    anchor      the member whose order of hidden units the others take
    align       `permute` matches hidden units before averaging, `none` averages them as they are numbered
    compensate  `ridge` refits the shared output matrix on what each member wrote
    """

    anchor: Literal["first", "middle", "last"] = "first"
    align: Literal["permute", "none"] = "permute"
    compensate: Literal["ridge", "none"] = "ridge"

    @model_validator(mode="after")
    def _several(self) -> "MergeFfs":
        if self.length < 2:
            raise ValueError("at least two FFNs are needed to share weights")
        return self
