"""Merge a window of FF sublayers into one that all its layers share (arXiv:2501.06126 sections 3.2 to 3.4).

Memory falls by all but one of them; the work per token stays what it was.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from neuromeld.archs.resolve import Architecture
from neuromeld.errors import UserInputError
from neuromeld.regression import Fit
from neuromeld.shapes import ACCUMULATE
from neuromeld.streams import Batch
from neuromeld.sublayers.align import Alignments, Anchor, anchor_of, collect_alignments
from neuromeld.sublayers.compensate import refit_shared
from neuromeld.sublayers.members import Member, fit_members
from neuromeld.sublayers.scales import fit_scales
from neuromeld.sublayers.windows import Window, check_mergeable
from neuromeld.surgery import mixed_outputs, read_bias, read_matrix, share, write_bias, write_matrix

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
    refit: Fit | None
    members: Sequence[Member] = ()


@torch.no_grad()
def merge_ffs(
    model: nn.Module,
    arch: Architecture,
    window: Window,
    batches: Sequence[Batch] = (),
    *,
    anchor: Anchor = "first",
    align: Align = "permute",
    compensate: Compensate = "none",
    gain: Gain = "none",
    rank: int = 0,
    alignments: Alignments | None = None,
) -> Merged:
    """Give every FF sublayer of `window` the average of them all, as the same parameters; norms stay per layer.

    batches     calibration data, to align with and to refit on
    anchor      the member whose order of hidden units the others take
    align       `none` averages units as they are numbered
    compensate  `ridge` refits the shared output matrix and bias on what each member's own sublayer wrote
    gain, rank  what every member keeps for itself: `members.py`, `scales.py`.  The caller makes the former take part in
                the forward pass
    alignments  those of this window, where they were collected before

    Raises `UserInputError` for a window that cannot be merged and for calibration data that is missing.
    """
    check_mergeable(model, arch, window)
    if align == "none" and anchor != "first":
        raise UserInputError(f"anchor={anchor!r} has no effect where align='none': leave one of them out")
    fits = compensate == "ridge" or gain != "none" or rank > 0
    needed = 2 if fits else int(align == "permute" and alignments is None)
    if len(batches) < needed:
        raise UserInputError(
            f"align={align!r} with compensate={compensate!r} needs at least {needed} calibration batches, of which a "
            f"refit holds part out; {len(batches)} given: give more"
        )
    permutations = {}
    if align == "permute":
        alignments = alignments or collect_alignments(model, arch, [window], anchor, batches)
        chosen = anchor_of(window, anchor)
        permutations = {member: alignments.permutation(chosen, member) for member in window if member != chosen}
    if not fits:
        _average(model, arch, window, permutations)
        return Merged(window, permutations, None)
    originals = {layer: copy.deepcopy(model.get_submodule(arch.layer_path(layer))) for layer in window}
    _average(model, arch, window, permutations)
    refit = refit_shared(model, arch, originals, batches) if compensate == "ridge" else None
    members: list[Member] = []
    if gain == "scale":
        members = fit_scales(model, arch, originals, batches)
    elif gain == "channel" or rank:
        members = fit_members(model, arch, originals, batches, gain=gain == "channel", rank=rank)
    return Merged(window, permutations, refit, members)


def _average(model: nn.Module, arch: Architecture, window: Window, permutations: Mapping[int, Tensor]) -> None:
    """Write the average over the window to its first layer, and let the others share it."""
    unchanged = torch.arange(arch.widths["ffn"])
    sublayers = [(*arch.producers(layer, "ffn"), arch.consumer(layer, "ffn")) for layer in window]
    for members in zip(*sublayers, strict=True):
        matrices, biases = [], []
        for layer, weight in zip(window, members, strict=True):
            order = permutations.get(layer, unchanged)
            matrix, bias = read_matrix(model, weight).to(ACCUMULATE), read_bias(model, weight)
            hidden_is_out = weight.out == "ffn"
            matrices.append(mixed_outputs(weight, matrix, order) if hidden_is_out else matrix[order])
            if bias is not None:
                bias = bias.to(ACCUMULATE)
                biases.append(mixed_outputs(weight, bias, order) if hidden_is_out else bias)
        write_matrix(model, members[0], torch.stack(matrices).mean(0))
        if biases:
            write_bias(model, members[0], torch.stack(biases).mean(0))
        share(model, [weight.path for weight in members])
