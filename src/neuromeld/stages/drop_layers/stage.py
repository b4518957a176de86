"""The stage `drop_layers`: remove whole layers."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import Any

from markupsafe import Markup
from torch import Tensor, nn
from transformers import PreTrainedModel

from neuromeld.archs.keys import read_key
from neuromeld.archs.resolve import Architecture
from neuromeld.archs.sizes import Sizes
from neuromeld.archs.spec import ArchSpec
from neuromeld.discovery.axes import built, shapes_of, with_values
from neuromeld.discovery.groups import place_of
from neuromeld.drawing.section import Record, Section, item
from neuromeld.errors import UserInputError
from neuromeld.linalg.ridge import FFN_LAMBDAS
from neuromeld.model.surgery import keep_layers
from neuromeld.stages.base import Cost, Job, Operations, Stage, Target, Workload, largest_layer_bytes
from neuromeld.stages.drop_layers.absorb import AbsorbedLayers, absorb, fit_windows, write_window
from neuromeld.stages.drop_layers.options import DropLayers
from neuromeld.stages.drop_layers.pattern import pattern_warning
from neuromeld.stages.layers_options import existing
from neuromeld.stages.operations import gram, regression, searching, share_of_pass
from neuromeld.stages.windows import (
    Window,
    WindowSearch,
    no_loss_refusals,
    search_by_loss,
    search_bytes,
    windows_of,
    windows_record,
)
from neuromeld.stages.windows_report import layers_section
from neuromeld.stats.base import TOKENS_PER_BLOCK


@dataclass(frozen=True)
class DroppedLayers:
    """The layers that were removed, counted from 0 in every stack, and how they were found and made up for.

    searches  one for each window, in the order in which they were found
    absorbed  the holes that a refit made up for
    """

    layers: list[int]
    searches: list[WindowSearch] = field(default_factory=list)
    absorbed: list[AbsorbedLayers] = field(default_factory=list)
    warning: str | None = None


class DropLayersStage(Stage[DropLayers, DroppedLayers]):
    """Remove whole layers, the same of every stack."""

    name = "drop_layers"
    title = "dropping layers"
    prefix = "drop-layers"
    Options = DropLayers

    def unavailable(self, spec: ArchSpec) -> str | None:
        """Say what the architecture forbids."""
        reason = spec.refusals.get(self.name)
        return None if reason is None else f"layers of {spec.model_type} models cannot be dropped: {reason}"

    def refusals(self, model: PreTrainedModel, arch: Architecture, options: DropLayers) -> list[str]:
        """Refuse to choose layers where there is no loss, and layers without which the config builds another model."""
        if self.searches(options):
            return [*no_loss_refusals(arch), *_unlike_refusals(arch)]
        return _config_refusals(model, arch, options)

    def left(self, arch: Architecture, options: DropLayers) -> Architecture:
        """Return the layers that stay; of layers that are alike the first ones, which are as good as any."""
        if _alike(arch):
            return arch.without(options.number)
        return arch.left_in(_kept(arch.num_layers, options))

    def resize(self, sizes: Sizes, options: DropLayers, target: Target) -> Sizes:
        """Return the sizes with fewer layers."""
        depth, layers = min(sizes.depths), options.layers
        if options.number >= depth or max(layers or (0,)) >= depth:
            raise UserInputError(
                f"drop_layers={layers or options.number}: the model has {depth} layers, counted from 0, and at least "
                "one must stay"
            )
        longest = options.lengths[0]
        if (options.windows - 1) * (2 * longest + 1) > depth - longest:
            raise UserInputError(
                f"drop_layers.windows={options.windows}: {options.number} of {depth} layers may not be found in so "
                "many windows with a layer between each two: give fewer"
            )
        if _alike(target.arch) or self.searches(options):
            return sizes.without_layers(options.number)
        left = sizes.left_in(_kept(sizes.num_layers, options))
        if any(sizes.ffn) and not any(left.ffn):
            raise UserInputError(
                f"drop_layers={list(layers or ())}: these are all layers that have an FFN of the kind that was found "
                "in this model; choose others"
            )
        return left

    def searches(self, options: DropLayers) -> bool:
        """Search where the layers are not named."""
        return options.layers is None

    def holds_out(self, options: DropLayers) -> bool:
        """Hold data out for the refit."""
        return options.compensate == "ridge"

    def unknowns(self, options: DropLayers, work: Workload) -> int:
        """Return the hidden neurons of the FFN that is refitted."""
        return max(work.before.ffn) if _absorbs(options, work.arch) else 0

    def foreseen(self, model: PreTrainedModel, arch: Architecture, options: DropLayers) -> list[str]:
        """Warn of a pattern of layers that may be broken."""
        layers = sorted(set(options.layers)) if options.layers is not None else None
        warning = pattern_warning(model.config, arch.spec.layer_lists, layers, options.number)
        return [warning] if warning else []

    def cost(self, options: DropLayers, work: Workload) -> Cost:
        """Predict what a search and a refit hold."""
        search = search_bytes(work) if self.searches(options) else 0
        if not _absorbs(options, work.arch):
            return Cost(mapped_bytes=search)
        d, f, stacks = work.arch.width, max(work.before.ffn), len(work.before.depths)
        sums = 2 * 8 * (f + 1) * (f + 1 + d) + 3 * 8 * f * (f + d)
        sums += 2 * 8 * TOKENS_PER_BLOCK * (f + d) + work.batch_tokens * work.itemsize * (f + 3 * d)
        matrix = (f + 1) * d * work.itemsize
        tried = matrix * work.before.num_layers * len(set(options.lengths)) if search else 0
        held = work.tokens * d * work.itemsize * max(3, (options.lengths[0] + 2) // 2)
        holes = stacks * (options.windows if search else options.number)
        return Cost(
            working_bytes=held + tried + sums,
            mapped_bytes=max(search, largest_layer_bytes(work) + sums),
            journal_bytes=matrix * holes,
            held_bytes=held + tried,
        )

    def operations(self, options: DropLayers, work: Workload) -> Operations:
        """Predict a search, and the refit in front of what is dropped, or of what is tried."""
        depth, tried = min(work.before.depths), [options.number] if options.layers else options.lengths
        places = sum(depth - length + 1 for length in tried)
        found = searching(work, places) if self.searches(options) else Operations()
        if _absorbs(options, work.arch):
            d, f = work.arch.width, max(work.before.ffn)
            fits = places / 4 + options.windows if self.searches(options) else options.number
            fit = Operations(0, gram(work.tokens, f, d), regression(f, d, len(FFN_LAMBDAS)))
            found += Operations(2 * work.tokens * share_of_pass(work, work.before)) + fit * fits
        return found

    def run(self, job: Job, options: DropLayers) -> DroppedLayers:
        """Find the layers, if they are not named, refit what is in front of them, and remove them."""
        model, arch = job.model, job.arch
        searches = _search(job, options) if self.searches(options) else []
        found = [layer for search in searches for layer in search.best.window]
        layers = sorted(set(options.layers or found))
        warning = pattern_warning(model.config, arch.spec.layer_lists, layers, len(layers))
        absorbed = absorb(job, layers) if options.compensate == "ridge" else []
        job.arch = drop_layers(model, arch, layers)
        return DroppedLayers(layers, searches, absorbed, warning)

    def warnings(self, result: DroppedLayers) -> list[str]:
        """Say which engines read a pattern of layers wrongly that was broken."""
        return [result.warning] if result.warning else []

    def record(self, result: DroppedLayers) -> dict[str, Any]:
        """Return the layers, the windows that were tried, and every refit."""
        tried = [
            tried | {"round": number}
            for number, search in enumerate(result.searches, start=1)
            for tried in windows_record(search)
        ]
        return {
            "dropped": result.layers,
            "dropped_windows": tried,
            "absorbed": [asdict(hole) for hole in result.absorbed],
        }

    def sentences(self, record: Record) -> list[Markup]:
        """Name the layers, and those that were refitted."""
        dropped, absorbed = record.get("dropped"), record.get("absorbed") or []
        said = [item("Layers {} were removed.", ", ".join(map(str, dropped)))] if dropped else []
        hosts = ", ".join(str(hole["host"]) for hole in absorbed if hole["fit"]["ridge"] is not None)
        text = "The feed-forward networks of layers {}, as numbered before, make up for those behind them."
        return said + ([item(text, hosts)] if hosts else [])

    def sections(self, record: Record) -> list[Section | None]:
        """Draw the loss without each window that was tried."""
        tried: list[dict[str, Any]] = record.get("dropped_windows") or []
        rounds = sorted({window.get("round", 1) for window in tried})
        if len(rounds) < 2:
            return [layers_section("Removed layers", tried, record.get("dropped"))]
        return [_round_section(number, [window for window in tried if window["round"] == number]) for number in rounds]


def _round_section(number: int, tried: list[dict[str, Any]]) -> Section | None:
    best = min(tried, key=lambda window: float(window["loss"]))
    return layers_section(f"Removed layers, window {number}", tried, [best["start"], best["end"]])


def _absorbs(options: DropLayers, arch: Architecture) -> bool:
    return options.compensate == "ridge" and any(stack.ffn_adds for stack in arch.spec.stacks)


def _search(job: Job, options: DropLayers) -> list[WindowSearch]:
    """Find the windows, the one of least loss first, then those with the first ones gone; each as it is absorbed."""

    @cache
    def fits() -> dict[tuple[int, int], Tensor]:
        return fit_windows(job, job.sample, set(options.lengths)) if options.compensate == "ridge" else {}

    searches: list[WindowSearch] = []

    def treat(window: Window) -> None:
        gone = [*(search.best.window for search in searches), window]
        for hole in gone:
            write_window(job, fits(), hole)
        drop_layers(job.model, job.arch, [layer for hole in gone for layer in hole])

    for number, length in enumerate(options.lengths, start=1):
        windows = [window for window in windows_of(job.arch, length) if _apart(window, searches)]
        searches.append(search_by_loss(job, f"drop_layers {number}", windows, treat))
    return searches


def _apart(window: Window, searches: Sequence[WindowSearch]) -> bool:
    """Tell whether there is a layer between a window and each that was found."""
    found = [search.best.window for search in searches]
    return all(window.stop < other.start or other.stop < window.start for other in found)


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
    return arch.without(len(dropped)) if _alike(arch) else replace(arch.left_in(kept), numbers=())


def _alike(arch: Architecture) -> bool:
    return all(stack.alike for stack in arch.spec.stacks)


def _kept(depth: int, options: DropLayers) -> list[int]:
    return [layer for layer in range(depth) if layer not in (options.layers or ())]


def _unlike_refusals(arch: Architecture) -> list[str]:
    """Refuse to choose from layers that are not alike: how much is left would not be known before."""
    if _alike(arch):
        return []
    return [
        f"layers of a {arch.spec.model_class} are not all of one shape, so the size of the rest depends on which are "
        "dropped: name them (--drop-layers-at)"
    ]


def _config_refusals(model: PreTrainedModel, arch: Architecture, options: DropLayers) -> list[str]:
    """Refuse layers that are not alike where the config of the rest builds other ones in their places."""
    kept, stack = _kept(arch.num_layers, options), arch.spec.stacks[0]
    if _alike(arch) or not kept or len(kept) == arch.num_layers:
        return []
    lists = {key: read_key(model.config, key) for key in arch.spec.layer_lists}
    changes = {key: [entries[i] for i in kept] for key, entries in lists.items()}
    config = with_values(model.config, {stack.count_key: len(kept)} | changes)
    smaller = built(type(model), config) if config is not None else None
    old, wanted = shapes_of(model), {}
    for name, shape in old.items():
        place = place_of(name)
        if place is None or place[0] != stack.layers:
            wanted[name] = shape
        elif place[1] in kept:
            wanted[f"{stack.layers}.{kept.index(place[1])}.{place[2]}"] = shape
    if smaller is not None and shapes_of(smaller) == wanted:
        return []
    return [
        f"drop_layers={list(options.layers or ())}: the config of a {arch.spec.model_class} states by the number of a "
        "layer what it is, and without these others come to stand where a layer of another kind is meant: choose others"
    ]
