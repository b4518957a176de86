"""The options of the stage `share_ffns`."""

from typing import Literal

from pydantic import Field, model_validator

from neuromeld.stages.base import StageOptions
from neuromeld.stages.share_ffns.merge import Sharing


class ShareFfns(StageOptions):
    """Merge adjacent FFNs into one that they share: `count` where that hurts least, or those of `window`."""

    count: int | None = Field(
        None,
        description="Adjacent FFNs to merge into one that they share, chosen where the loss rises least.",
        json_schema_extra={"flag": "--share-ffns", "target": True},
    )
    window: tuple[int, int] | None = Field(
        None,
        description="First and last layer of the FFNs to merge, counted from 0, as 10-14.",
        json_schema_extra={"flag": "--share-ffns-at", "target": True, "metavar": "FIRST-LAST"},
    )
    anchor: Literal["first", "middle", "last"] = Field(
        "first", description="Member whose order of hidden units the others are aligned to."
    )
    align: Literal["permute", "none"] = Field(
        "permute", description="Match hidden units by permutation, or take them as they are numbered."
    )
    combine: Literal["average", "strongest"] | None = Field(
        None,
        description="Average the matched units, or keep the strongest; by default the strongest with a refit.",
    )
    compensate: Literal["ridge", "none"] = Field(
        "ridge", description="Refit the shared output matrix on what each member wrote, or not."
    )
    gain: Literal["channel", "scale", "none"] = Field(
        "none",
        description="Per-layer factors on a shared FFN: new ones for each channel, or a refit of those that the model "
        "has (scale).",
    )
    rank: int = Field(0, description="Rank of the per-layer correction to a shared FFN.")

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
    def length(self) -> int:
        """How many layers the window spans."""
        if self.window is not None:
            return self.window[1] - self.window[0] + 1
        assert self.count is not None
        return self.count

    def sharing(self, *, final: bool) -> Sharing:
        """Return how FFNs are merged: while windows are tried, and with what members keep for themselves in the end."""
        return Sharing(
            anchor=self.anchor,
            align=self.align,
            chained=not final,
            combine=self.combine or ("strongest" if self.compensate == "ridge" else "average"),
            compensate=self.compensate,
            gain=self.gain if final else "none",
            rank=self.rank if final else 0,
        )
