"""The stage `drop_layers`: remove whole layers."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from torch import nn
from transformers import PreTrainedModel

from neuromeld.archs.resolve import Architecture
from neuromeld.archs.sizes import Sizes
from neuromeld.drawing.section import Record, Section, item
from neuromeld.errors import UserInputError
from neuromeld.model.surgery import keep_layers
from neuromeld.stages.base import Cost, Job, Stage, Target, Workload
from neuromeld.stages.drop_layers.options import DropLayers
from neuromeld.stages.drop_layers.pattern import pattern_warning
from neuromeld.stages.layers_options import existing
from neuromeld.stages.windows import (
    WindowSearch,
    loss_bytes,
    no_loss_refusals,
    search_by_loss,
    windows_of,
    windows_record,
)
from neuromeld.stages.windows_report import layers_section


@dataclass(frozen=True)
class DroppedLayers:
    """The layers that were removed, counted from 0 in every stack, and the search that found them, if any."""

    layers: list[int]
    search: WindowSearch | None = None
    warning: str | None = None


class DropLayersStage(Stage[DropLayers, DroppedLayers]):
    """Remove whole layers, the same of every stack."""

    name = "drop_layers"
    title = "dropping layers"
    prefix = "drop-layers"
    Options = DropLayers

    def refusals(self, model: PreTrainedModel, arch: Architecture, options: DropLayers) -> list[str]:  # noqa: ARG002
        """Refuse to choose layers where there is no loss."""
        return no_loss_refusals(arch) if self.searches(options) else []

    def resize(self, sizes: Sizes, options: DropLayers, target: Target) -> Sizes:  # noqa: ARG002
        """Return the sizes with fewer layers."""
        depth, layers = min(sizes.depths), options.layers
        if options.number >= depth or max(layers or (0,)) >= depth:
            raise UserInputError(
                f"drop_layers={layers or options.number}: the model has {depth} layers, counted from 0, and at least "
                "one must stay"
            )
        return sizes.without_layers(options.number)

    def searches(self, options: DropLayers) -> bool:
        """Search where the layers are not named."""
        return options.layers is None

    def foreseen(self, model: PreTrainedModel, arch: Architecture, options: DropLayers) -> list[str]:
        """Warn of a pattern of layers that may be broken."""
        layers = sorted(set(options.layers)) if options.layers is not None else None
        warning = pattern_warning(model.config, arch.spec.layer_lists, layers, options.number)
        return [warning] if warning else []

    def cost(self, options: DropLayers, work: Workload) -> Cost:
        """Predict what a search holds."""
        return Cost(mapped_bytes=loss_bytes(work) if self.searches(options) else 0)

    def run(self, job: Job, options: DropLayers) -> DroppedLayers:
        """Find the layers, if they are not named, and remove them."""
        model, arch, search = job.model, job.arch, None
        layers = list(options.layers or ())
        if self.searches(options):
            windows = windows_of(arch, options.number)
            search = search_by_loss(job, self.name, windows, lambda window: drop_layers(model, arch, window))
            layers = list(search.best.window)
        layers = sorted(set(layers))
        warning = pattern_warning(model.config, arch.spec.layer_lists, layers, len(layers))
        job.arch = drop_layers(model, arch, layers)
        return DroppedLayers(layers, search, warning)

    def warnings(self, result: DroppedLayers) -> list[str]:
        """Say which engines read a pattern of layers wrongly that was broken."""
        return [result.warning] if result.warning else []

    def record(self, result: DroppedLayers) -> dict[str, Any]:
        """Return the layers, and the windows that were tried."""
        return {"dropped": result.layers, "dropped_windows": windows_record(result.search)}

    def sentences(self, record: Record) -> list[Markup]:
        """Name the layers."""
        dropped = record.get("dropped")
        return [item("Layers {} were removed.", ", ".join(map(str, dropped)))] if dropped else []

    def sections(self, record: Record) -> list[Section | None]:
        """Draw the loss without each window that was tried."""
        return [layers_section("Removed layers", record.get("dropped_windows"), record.get("dropped"))]


def drop_layers(model: nn.Module, arch: Architecture, layers: Iterable[int]) -> Architecture:
    """Remove whole layers in place, the same of every stack; return the architecture of what is left.

    Raises `UserInputError` for layers that do not exist, and where none would be left.
    """
    dropped = existing(min(arch.depths), list(layers))
    for stack, depth in zip(arch.spec.stacks, arch.depths, strict=True):
        kept = [layer for layer in range(depth) if layer not in dropped]
        if not kept:
            raise UserInputError(f"dropping all {depth} layers leaves none: keep at least one")
        keep_layers(model, stack, kept, arch.spec.layer_lists)
    return arch.without(len(dropped))
