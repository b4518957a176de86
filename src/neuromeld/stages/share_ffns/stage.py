"""The stage `share_ffns`: merge adjacent FFNs into one that they share."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

from markupsafe import Markup
from transformers import PreTrainedModel

from neuromeld.archs.resolve import Architecture
from neuromeld.archs.sizes import Sizes
from neuromeld.archs.spec import ArchSpec, Space
from neuromeld.drawing.section import Record, Section, item, join, number, paragraph
from neuromeld.errors import UserInputError
from neuromeld.linalg.ridge import FFN_LAMBDAS
from neuromeld.model.capture import Batch
from neuromeld.model.native.block import native_block
from neuromeld.model.native.modeling import attach_member_hooks
from neuromeld.stages.base import Cost, Job, Operations, Stage, StageOptions, Target, Workload
from neuromeld.stages.operations import ASSIGNMENT, gram, regression, searching, share_of_pass
from neuromeld.stages.share_ffns.fused import FusedFfn
from neuromeld.stages.share_ffns.merge import SharedFfn, collect, fuse_windows, share_ffns
from neuromeld.stages.share_ffns.options import ShareFfns
from neuromeld.stages.windows import (
    Window,
    WindowSearch,
    no_loss_refusals,
    search_by_loss,
    span,
    windows_of,
    windows_record,
)
from neuromeld.stages.windows_report import windows_section

TRIAL_TOKENS = 2048
"""Calibration tokens that windows are tried with, or as many as an FFN has neurons (docs/stages/share_ffns.md)."""


@dataclass(frozen=True)
class SharedFfns:
    """The FFNs that were merged, one entry for each stack, and the search that found the window, if any."""

    merged: list[SharedFfn]
    search: WindowSearch | None = None


class ShareFfnsStage(Stage[ShareFfns, SharedFfns]):
    """Give the FFNs of adjacent layers one set of weights, the same layers of every stack."""

    name = "share_ffns"
    title = "merging FFNs"
    prefix = "share-ffns"
    Options = ShareFfns

    def conflicts(self, options: ShareFfns, others: Mapping[str, StageOptions]) -> list[str]:  # noqa: ARG002
        """Exclude what would give the FFNs of a window bases or widths of their own."""
        found = []
        if getattr(others.get("width"), "basis", "shared") != "shared":
            found.append("share_ffns needs width.basis=shared: FFNs in different bases have nothing in common")
        ffn = others.get("ffn")
        if isinstance(getattr(ffn, "size", None), tuple) or getattr(ffn, "by_layer", False):
            found.append("share_ffns needs FFNs of one width: give ffn.size as one number, or ffn.ratio")
        return found

    def unavailable(self, spec: ArchSpec) -> str | None:
        """Say what the architecture forbids."""
        reason = spec.refusals.get(self.name)
        return None if reason is None else f"FFNs cannot be merged in {spec.model_type} models: {reason}"

    def refusals(self, model: PreTrainedModel, arch: Architecture, options: ShareFfns) -> list[str]:  # noqa: ARG002
        """Refuse to choose by a loss that is not there, and to fit scales that are not there."""
        found = no_loss_refusals(arch) if self.searches(options) else []
        if options.gain == "scale" and arch.spec.stacks[0].ffn_scale is None:
            found.append(
                f"gain=scale: {arch.spec.model_type} models have no factors behind their FFNs that could be fitted; "
                "use channel"
            )
        return found

    def resize(self, sizes: Sizes, options: ShareFfns, target: Target) -> Sizes:  # noqa: ARG002
        """Return the sizes with a window of shared FFNs."""
        count, window, depth = options.length, options.window, min(sizes.depths)
        if count > depth or (window and window[1] >= depth):
            raise UserInputError(
                f"share_ffns={window or count}: the model has {depth} FFNs, counted from 0; choose fewer"
            )
        most = min(sizes.ffn[0], sizes.hidden)
        if options.rank >= most:
            raise UserInputError(f"share_ffns.rank={options.rank} must be below {most}, the FFNs' smaller side")
        return replace(sizes, shared_ffns=count)

    def native_reasons(self, options: ShareFfns, target: Target, after: Sizes) -> list[str]:  # noqa: ARG002
        """Say that no stock config knows shared FFNs."""
        return ["a stock model cannot share an FFN between layers"]

    def searches(self, options: ShareFfns) -> bool:
        """Search where the window is not named."""
        return options.window is None

    def holds_out(self, options: ShareFfns) -> bool:
        """Hold data out for the refit."""
        return options.compensate == "ridge"

    def cost(self, options: ShareFfns, work: Workload) -> Cost:
        """Count what every member keeps for itself."""
        members = work.after.shared_ffns * len(work.after.depths)
        low_rank = members * options.rank * (work.after.ffn[0] + work.after.hidden)
        gains = members * work.after.hidden if options.gain == "channel" else 0
        return Cost(
            parameters=low_rank + gains, matrices=low_rank, unmapped=("share_ffns holds all layers of a window",)
        )

    def operations(self, options: ShareFfns, work: Workload) -> Operations:
        """Predict alignments and refits of the window, and of every window that is searched, from fewer tokens."""
        passes, few = share_of_pass(work, work.before), _trial_tokens(work.before, work.tokens / 4)
        found = Operations(2 * work.tokens * passes) + _merging(options, work, few, work.tokens)
        if self.searches(options):
            windows = min(work.before.depths) - options.length + 1
            tried = _merging(options, work, few, few, aligned=1) * windows
            found += searching(work, windows) + Operations(2 * few * passes) + tried
        return found

    def run(self, job: Job, options: ShareFfns) -> SharedFfns:
        """Find the window, if it is not named, and merge its FFNs."""
        sizes = {Space.RESIDUAL: job.before.hidden, Space.FFN: job.before.ffn[0]}
        arch = replace(job.arch, width=job.before.hidden, widths=job.arch.widths | sizes)
        windows: Sequence[Window] = windows_of(arch, options.length, at_least=2)
        if options.window is not None:
            windows = [range(options.window[0], options.window[1] + 1)]
        search, best = None, windows[0]
        if len(windows) > 1:
            search = self._search(job, arch, windows, options)
            best = search.best.window
        how, parts = options.sharing(final=True), arch.in_step(best)
        collected = collect(job.model, arch, parts, job.sample, how)
        merged = [share_ffns(job.model, arch, part, job.data, how, collected) for part in parts]
        attach_member_hooks(job.model, native_block(job.model, job.arch))
        return SharedFfns(merged, search)

    def _search(self, job: Job, arch: Architecture, windows: Sequence[Window], options: ShareFfns) -> WindowSearch:
        """Try each window as it would be merged, from few batches, and aligned on fewer."""
        how, stacks = options.sharing(final=False), list(zip(*map(arch.in_step, windows), strict=True))

        @cache
        def fused() -> list[list[tuple[FusedFfn, SharedFfn]]]:
            everywhere = [part for parts in stacks for part in parts]
            sample = _few(job.sample, _trial_tokens(job.before))
            collected = collect(job.model, arch, everywhere, sample, how)
            return [fuse_windows(job.model, arch, parts, sample, how, collected) for parts in stacks]

        def merge(window: Window) -> None:
            for of_stack in fused():
                of_stack[windows.index(window)][0].write(job.model)

        return search_by_loss(job, self.name, windows, merge)

    def record(self, result: SharedFfns) -> dict[str, Any]:
        """Return the window of the first stack (the others are merged in step), the search, and every fit."""
        return {
            "window": span(result.merged[0].window),
            "windows": windows_record(result.search),
            "members": [asdict(member) for part in result.merged for member in part.members],
            "window_refits": [asdict(part.refit) for part in result.merged if part.refit is not None],
        }

    def sentences(self, record: Record) -> list[Markup]:
        """Name the window."""
        window = record.get("window")
        text = "The layers {} to {} share one feed-forward network."
        return [item(text, window["start"], window["end"])] if window else []

    def sections(self, record: Record) -> list[Section | None]:
        """Draw the refit, and the loss of each window that was tried."""
        refits = join([_refitted(refit) for refit in record.get("window_refits", [])])
        title = "Shared feed-forward networks"
        return [windows_section(title, record.get("windows"), record.get("window"), refits)]


def _trial_tokens(sizes: Sizes, most: float = math.inf) -> float:
    """Return the tokens that windows are tried with: enough for the regression on all neurons of an FFN."""
    return min(max(TRIAL_TOKENS, *sizes.ffn), most)


def _merging(
    options: ShareFfns, work: Workload, aligned_on: float, fitted_on: float, aligned: int | None = None
) -> Operations:
    """Predict what one window takes: correlations and permutations of its members, and the shared refit.

    aligned  members that no other window has aligned
    """
    d, f, members = work.arch.width, work.before.ffn[0], options.length
    pairs = members - 1 if aligned is None else aligned
    found = Operations(0, gram(aligned_on, f) * (pairs + 1), ASSIGNMENT * f**3 * pairs)
    if options.compensate != "ridge":
        return found
    return found + Operations(0, gram(fitted_on, f, d) * members, regression(f, d, len(FFN_LAMBDAS)))


def _few(batches: Sequence[Batch], tokens: float) -> Sequence[Batch]:
    """Return some of the windows, of a batch each, with so many tokens where there are; all of what is no text."""
    ids = batches[0].get("input_ids")
    needed = math.inf if ids is None else max(2, math.ceil(tokens / ids.shape[1]))
    windows = [(batch, row) for batch in batches for row in range(len(next(iter(batch.values()))))]
    if needed >= len(windows):
        return batches
    chosen = windows[:: len(windows) // int(needed)][: int(needed)]
    return [{name: value[row : row + 1] for name, value in batch.items()} for batch, row in chosen]


def _refitted(refit: dict[str, Any]) -> Markup:
    kept = "refitted" if refit["ridge"] is not None else "refitted, which did not help and was not kept"
    return paragraph(
        "The output matrix that they share was " + kept + ": relative error {before} before, {after} after, on "
        "calibration tokens that the fit did not see.",
        before=number(refit["error_before"]),
        after=number(refit["error_after"]),
    )
