"""Merge a window of FF sublayers into one that all its layers share (arXiv:2501.06126 sections 3.2 to 3.4).

Memory falls by all but one of them; the work per token stays what it was.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float64, Int64
from torch import Tensor, nn

from neuromeld.archs.resolve import Architecture
from neuromeld.errors import UserInputError
from neuromeld.linalg.ridge import FitReport
from neuromeld.model.capture import Batch
from neuromeld.runtime.distributed import global_index
from neuromeld.stages.share_ffns.align import Alignments, Anchor, anchor_of, collect_alignments
from neuromeld.stages.share_ffns.combine import Combine, collect_strengths, fuse
from neuromeld.stages.share_ffns.compensate import refit_shared
from neuromeld.stages.share_ffns.corrections import LayerCorrection, fit_corrections
from neuromeld.stages.share_ffns.scales import fit_scales
from neuromeld.stages.windows import Window, check_mergeable

Align = Literal["permute", "none"]
Compensate = Literal["ridge", "none"]
Gain = Literal["channel", "scale", "none"]


@dataclass(frozen=True)
class Merged:
    """What was merged: the permutation of each member but the anchor, and the refit of the shared output, if any.

    `members` has an entry for each, where they keep something for themselves.
    """

    window: Window
    permutations: dict[int, Int64[Tensor, " f"]]
    refit: FitReport | None
    members: Sequence[LayerCorrection] = ()


@torch.no_grad()
def share_ffns(
    model: nn.Module,
    arch: Architecture,
    window: Window,
    batches: Sequence[Batch] = (),
    *,
    anchor: Anchor = "first",
    align: Align = "permute",
    combine: Combine = "average",
    compensate: Compensate = "none",
    gain: Gain = "none",
    rank: int = 0,
    alignments: Alignments | None = None,
    strengths: Mapping[int, Float64[Tensor, " f"]] | None = None,
) -> Merged:
    """Give every FF sublayer of `window` one made of them all, as the same parameters; norms stay per layer.

    batches     calibration data, to align with and to refit on
    anchor      the member whose order of hidden units the others take
    align       `none` takes units as they are numbered
    combine     the average of aligned units, or the strongest of them
    compensate  `ridge` refits the shared output matrix and bias on what each member's own sublayer wrote
    gain, rank  what every member keeps for itself: `members.py`, `scales.py`.  The caller makes the former take part in
                the forward pass
    alignments  those of this window, where they were collected before
    strengths   those of its layers, likewise

    Raises `UserInputError` for a window that cannot be merged and for calibration data that is missing.
    """
    check_mergeable(model, arch, window)
    if align == "none" and anchor != "first":
        raise UserInputError(f"anchor={anchor!r} has no effect where align='none': leave one of them out")
    fits = compensate == "ridge" or gain != "none" or rank > 0
    collects = (align == "permute" and alignments is None) or (combine == "strongest" and strengths is None)
    needed = 2 if fits else int(collects)
    _, total = global_index(batches, 0)
    if total < needed:
        raise UserInputError(
            f"align={align!r} and combine={combine!r} with compensate={compensate!r} need at least {needed} "
            f"calibration batches, of which a refit holds part out; {total} given: give more"
        )
    permutations = {}
    if align == "permute":
        alignments = alignments or collect_alignments(model, arch, [window], anchor, batches)
        chosen = anchor_of(window, anchor)
        permutations = {member: alignments.permutation(chosen, member) for member in window if member != chosen}
    unchanged = torch.arange(arch.widths["ffn"])
    orders = torch.stack([permutations.get(layer, unchanged).cpu() for layer in window])
    strength = None
    if combine == "strongest":
        strengths = strengths or collect_strengths(model, arch, [window], batches)
        strength = torch.stack([strengths[layer] for layer in window])
    layers = window if fits else ()
    originals = {layer: copy.deepcopy(model.get_submodule(arch.layer_path(layer))) for layer in layers}
    fuse(model, arch, window, orders, strength)
    refit = refit_shared(model, arch, originals, batches) if compensate == "ridge" else None
    members: list[LayerCorrection] = []
    if gain == "scale":
        members = fit_scales(model, arch, originals, batches)
    elif gain == "channel" or rank:
        members = fit_corrections(model, arch, originals, batches, gain=gain == "channel", rank=rank)
    return Merged(window, permutations, refit, members)
