"""The stage `remove_ffns`: remove FFNs and keep the attention of their layers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from textwrap import shorten
from typing import Any

import torch
from markupsafe import Markup
from torch import nn
from transformers import PreTrainedModel

from neuromeld.archs.resolve import Architecture
from neuromeld.archs.sizes import Sizes
from neuromeld.archs.spec import ArchSpec, Space
from neuromeld.drawing.section import Record, Section, item
from neuromeld.errors import UserInputError
from neuromeld.model.surgery import read_bias, read_matrix, write_bias, write_matrix
from neuromeld.stages.base import ONE_SIZE, Cost, Job, Operations, Stage, StageOptions, Target, Workload
from neuromeld.stages.layers_options import existing
from neuromeld.stages.operations import searching
from neuromeld.stages.remove_ffns.options import RemoveFfns
from neuromeld.stages.windows import (
    WindowSearch,
    no_loss_refusals,
    search_by_loss,
    search_bytes,
    windows_of,
    windows_record,
)
from neuromeld.stages.windows_report import layers_section

REMOVED_WIDTH = {"linear": 0, "conv1d": 1}
"""Hidden units that are left of an FFN that is removed, by the layout of its output matrix."""


@dataclass(frozen=True)
class RemovedFfns:
    """The layers whose FFNs were removed, counted from 0 in every stack, and the search that found them, if any."""

    layers: list[int]
    search: WindowSearch | None = None


class RemoveFfnsStage(Stage[RemoveFfns, RemovedFfns]):
    """Remove FFNs, the same of every stack."""

    name = "remove_ffns"
    title = "removing FFNs"
    prefix = "remove-ffns"
    Options = RemoveFfns

    def conflicts(self, options: RemoveFfns, others: Mapping[str, StageOptions]) -> list[str]:  # noqa: ARG002
        """Exclude what else is done to FFNs."""
        if {"ffn", "share_ffns"} & others.keys():
            return ["remove_ffns decides over whole FFNs: leave out ffn and share_ffns"]
        return []

    def unavailable(self, spec: ArchSpec) -> str | None:
        """Say what the architecture forbids."""
        reason = spec.refusals.get(self.name)
        return None if reason is None else f"FFNs cannot be removed in {spec.model_type} models: {reason}"

    def refusals(self, model: PreTrainedModel, arch: Architecture, options: RemoveFfns) -> list[str]:  # noqa: ARG002
        """Refuse to choose layers where there is no loss."""
        return no_loss_refusals(arch) if self.searches(options) else []

    def resize(self, sizes: Sizes, options: RemoveFfns, target: Target) -> Sizes:
        """Return the sizes without FFNs; where they are to be found, without the first."""
        layers = sorted(set(options.layers or range(options.number)))
        depth, left = min(sizes.depths), REMOVED_WIDTH[target.arch.consumer(0, Space.FFN).layout]
        if layers[-1] >= depth:
            raise UserInputError(
                f"remove_ffns={shorten(str(layers), 80)}: the model has {depth} FFNs, counted from 0; choose fewer"
            )
        gone = set(_in_all_stacks(target.arch.with_depths(sizes.depths), layers))
        return replace(sizes, ffn=tuple(left if layer in gone else size for layer, size in enumerate(sizes.ffn)))

    def native_reasons(self, options: RemoveFfns, target: Target, after: Sizes) -> list[str]:  # noqa: ARG002
        """Say that FFNs come to differ."""
        return [ONE_SIZE]

    def searches(self, options: RemoveFfns) -> bool:
        """Search where the layers are not named."""
        return options.layers is None

    def cost(self, options: RemoveFfns, work: Workload) -> Cost:
        """Predict what a search holds."""
        return Cost(mapped_bytes=search_bytes(work) if self.searches(options) else 0)

    def operations(self, options: RemoveFfns, work: Workload) -> Operations:
        """Predict a search."""
        windows = min(work.before.depths) - options.number + 1
        return searching(work, windows) if self.searches(options) else Operations()

    def run(self, job: Job, options: RemoveFfns) -> RemovedFfns:
        """Find the FFNs, if they are not named, and remove them."""
        search, layers = None, sorted(set(options.layers or ()))

        def remove(chosen: Sequence[int]) -> None:
            remove_ffns(job.model, job.arch, _in_all_stacks(job.arch, chosen))

        if self.searches(options):
            search = search_by_loss(job, self.name, windows_of(job.arch, options.number), remove)
            layers = list(search.best.window)
        remove(layers)
        job.after = self.resize(job.before, RemoveFfns(layers=tuple(layers)), job.target)
        return RemovedFfns(layers, search)

    def record(self, result: RemovedFfns) -> dict[str, Any]:
        """Return the layers, and the windows that were tried."""
        return {"removed_ffns": result.layers, "removed_ffns_windows": windows_record(result.search)}

    def sentences(self, record: Record) -> list[Markup]:
        """Name the layers."""
        removed = record.get("removed_ffns")
        text = "The feed-forward networks of layers {} were removed."
        return [item(text, ", ".join(map(str, removed)))] if removed else []

    def sections(self, record: Record) -> list[Section | None]:
        """Draw the loss without each window that was tried."""
        title = "Removed feed-forward networks"
        return [layers_section(title, record.get("removed_ffns_windows"), record.get("removed_ffns"))]


def _in_all_stacks(arch: Architecture, layers: Iterable[int]) -> list[int]:
    """Return layers that are counted from 0 in every stack as they are counted through all stacks."""
    return [first + layer for first in arch.stack_offsets for layer in layers]


@torch.no_grad()
def remove_ffns(model: nn.Module, arch: Architecture, layers: Iterable[int]) -> None:
    """Narrow the FFNs of `layers` to nothing, in place: what remains of each is the bias of its output.

    What stays is `REMOVED_WIDTH`: an `nn.Linear` runs at width 0; a Conv1D does not, so one unit stays, all zero.
    Raises `UserInputError` for layers that do not exist.
    """
    for layer in sorted(existing(arch.num_layers, list(layers))):
        consumer = arch.consumer(layer, Space.FFN)
        width = REMOVED_WIDTH[consumer.layout]
        for weight in arch.producers(layer, Space.FFN):
            write_matrix(model, weight, torch.zeros_like(read_matrix(model, weight)[:, :width]))
            bias = read_bias(model, weight)
            if bias is not None:
                write_bias(model, weight, torch.zeros_like(bias[:width]))
        write_matrix(model, consumer, torch.zeros_like(read_matrix(model, consumer)[:width]))
