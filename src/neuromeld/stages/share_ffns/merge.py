"""Merge a window of FF sublayers into one that all its layers share (arXiv:2501.06126 sections 3.2 to 3.4).

Memory falls by all but one of them; the work per token stays what it was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float64, Int64
from torch import Tensor, nn

from neuromeld.archs.resolve import Architecture
from neuromeld.archs.spec import Space
from neuromeld.errors import UserInputError
from neuromeld.linalg.ridge import FitReport
from neuromeld.model.capture import Batch
from neuromeld.model.surgery import copy_structure
from neuromeld.registry import Need
from neuromeld.runtime.distributed import global_index
from neuromeld.shapes import ACCUMULATE
from neuromeld.stages.share_ffns.align import Alignments, Anchor, anchor_of, collect_alignments
from neuromeld.stages.share_ffns.combine import COMBINES, collect_strengths, fuse
from neuromeld.stages.share_ffns.corrections import LayerCorrection, fit_corrections
from neuromeld.stages.share_ffns.fused import FusedFfn
from neuromeld.stages.share_ffns.mergeable import check_mergeable
from neuromeld.stages.share_ffns.refit import refit_shared
from neuromeld.stages.share_ffns.scales import fit_scales
from neuromeld.stages.windows import Window

Align = Literal["permute", "none"]
Gain = Literal["channel", "scale", "none"]


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """How the FFNs of a window become one.

    anchor      the member whose order of hidden units the others take
    align       `permute` matches hidden units, `none` takes them as they are numbered
    chained     hidden units are matched with those of the next member, and so with the anchor's
    combine     name of a method of `COMBINES`
    compensate  `ridge` refits the shared output matrix and bias on what each member's own sublayer wrote
    gain, rank  what every member keeps for itself: `corrections.py`, `scales.py`
    """

    anchor: Anchor = "first"
    align: Align = "permute"
    chained: bool = False
    combine: str = "average"
    compensate: Literal["ridge", "none"] = "none"
    gain: Gain = "none"
    rank: int = 0

    def __post_init__(self) -> None:
        if self.align == "none" and self.anchor != "first":
            raise UserInputError(f"anchor={self.anchor!r} has no effect where align='none': leave one of them out")

    @property
    def fits(self) -> bool:
        """Whether something is fitted on calibration data, part of which is held out."""
        return self.compensate == "ridge" or self.gain != "none" or self.rank > 0

    @property
    def needs_strengths(self) -> bool:
        """Whether the strengths of hidden units decide."""
        return Need.STRENGTHS in COMBINES[self.combine].needs


@dataclass(frozen=True)
class Collected:
    """Statistics collected for many windows at once: moments to align with, and strengths of units by layer."""

    alignments: Alignments | None = None
    strengths: Mapping[int, Float64[Tensor, " f"]] | None = None


@dataclass(frozen=True)
class SharedFfn:
    """A shared FFN: the permutation of each member but the anchor, and the refit of the shared output, if any.

    `members` has an entry for each, where they keep something for themselves.
    """

    window: Window
    permutations: dict[int, Int64[Tensor, " f"]]
    refit: FitReport | None
    members: Sequence[LayerCorrection] = ()


def collect(
    model: nn.Module, arch: Architecture, windows: Sequence[Window], batches: Sequence[Batch], how: Sharing
) -> Collected:
    """Collect what merging needs for all `windows` at once."""
    alignments = strengths = None
    if how.align == "permute":
        alignments = collect_alignments(model, arch, windows, how.anchor, batches, chained=how.chained)
    if how.needs_strengths:
        strengths = collect_strengths(model, arch, windows, batches)
    return Collected(alignments, strengths)


@torch.no_grad()
def fuse_windows(
    model: nn.Module,
    arch: Architecture,
    windows: Sequence[Window],
    batches: Sequence[Batch] = (),
    how: Sharing | None = None,
    collected: Collected | None = None,
) -> list[tuple[FusedFfn, SharedFfn]]:
    """Return for each window the FFN that it would share, and how that came about; the model is left alone.

    windows    all in one stack
    batches    calibration data, to align with and to refit on
    collected  what `collect` found for these windows; by default it is collected on `batches`

    What its members would keep for themselves is not fitted.
    Raises `UserInputError` for a window that cannot be merged and for calibration data that is missing.
    """
    how = how or Sharing()
    for window in windows:
        check_mergeable(model, arch, window)
    _check_batches(batches, how, collected)
    collected = collected or collect(model, arch, windows, batches, how)
    aligned = collected.alignments
    permutations = [aligned.permutations(w, anchor_of(w, how.anchor)) if aligned else {} for w in windows]
    fused = [
        fuse(model, arch, window, *_slots(arch, window, orders, how, collected))
        for window, orders in zip(windows, permutations, strict=True)
    ]
    refits: Sequence[FitReport | None] = [None] * len(fused)
    if how.compensate == "ridge":
        refits = refit_shared(model, arch, fused, batches)
    found = map(SharedFfn, windows, permutations, refits)
    return list(zip(fused, found, strict=True))


@torch.no_grad()
def share_ffns(
    model: nn.Module,
    arch: Architecture,
    window: Window,
    batches: Sequence[Batch] = (),
    how: Sharing | None = None,
    collected: Collected | None = None,
) -> SharedFfn:
    """Give every FFN of `window` one made of them all, as the same parameters; norms stay per layer.

    batches, collected  as `fuse_windows` takes them

    The caller makes a gain for each channel take part in the forward pass.
    Raises `UserInputError` for a window that cannot be merged and for calibration data that is missing.
    """
    how = how or Sharing()
    ((fused, shared),) = fuse_windows(model, arch, [window], batches, how, collected)
    originals = {layer: copy_structure(model.get_submodule(arch.layer_path(layer))) for layer in window}
    fused.write(model)
    members: list[LayerCorrection] = []
    if how.gain == "scale":
        members = fit_scales(model, arch, originals, batches)
    elif how.gain == "channel" or how.rank:
        members = fit_corrections(model, arch, originals, batches, gain=how.gain == "channel", rank=how.rank)
    return replace(shared, members=members)


def _check_batches(batches: Sequence[Batch], how: Sharing, collected: Collected | None) -> None:
    collects = collected is None and (how.align == "permute" or how.needs_strengths)
    needed = 2 if how.fits else int(collects)
    _, total = global_index(batches, 0)
    if total < needed:
        raise UserInputError(
            f"align={how.align!r} and combine={how.combine!r} with compensate={how.compensate!r} need at least "
            f"{needed} calibration batches, of which a refit holds part out; {total} given: give more"
        )


def _slots(
    arch: Architecture,
    window: Window,
    permutations: Mapping[int, Int64[Tensor, " f"]],
    how: Sharing,
    collected: Collected,
) -> tuple[Int64[Tensor, "n f"], Float64[Tensor, "n f"]]:
    """Return which unit of each member goes into each slot, and its share there."""
    unchanged = torch.arange(arch.widths[Space.FFN])
    orders = torch.stack([permutations.get(layer, unchanged).cpu() for layer in window])
    strength = torch.ones(orders.shape, dtype=ACCUMULATE)
    if collected.strengths is not None:
        units = torch.stack([collected.strengths[layer] for layer in window])
        strength = units.gather(1, orders.to(units.device))
    return orders, COMBINES[how.combine](strength)
