"""The stage `width`: narrow the residual stream."""

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from markupsafe import Markup
from transformers import PretrainedConfig, PreTrainedModel

from neuromeld.archs.resolve import Architecture
from neuromeld.archs.sizes import Sizes, predict_flops, stock_multiple
from neuromeld.archs.spec import ArchSpec, Space
from neuromeld.drawing.section import Record, Section, item
from neuromeld.errors import UserInputError
from neuromeld.linalg.ridge import LAMBDAS
from neuromeld.model.learning import Look, learn, steps_of
from neuromeld.model.native.block import native_block
from neuromeld.model.native.modeling import attach_hooks
from neuromeld.registry import Need
from neuromeld.runtime.distributed import every_batch, map_over_ranks
from neuromeld.runtime.progress import track
from neuromeld.stages.base import (
    Cost,
    Job,
    Operations,
    Stage,
    Target,
    Workload,
    largest_layer_bytes,
    layer_bytes,
    table_bytes,
)
from neuromeld.stages.operations import EIGENVECTORS, LEARNING, gram, regression, share_of_pass
from neuromeld.stages.per_layer import round_width
from neuromeld.stages.sublayer_stage import shown
from neuromeld.stages.teaching import backward_bytes, light_backward_bytes, no_predictions, teacher_of
from neuromeld.stages.width.consumers import ROWS
from neuromeld.stages.width.decoders import DECODERS
from neuromeld.stages.width.fit import FittedRun, fit_run, stored_statistics, stream_of
from neuromeld.stages.width.learned import Directions
from neuromeld.stages.width.merges import MERGES
from neuromeld.stages.width.options import Width
from neuromeld.stages.width.report import learned, refits, runs
from neuromeld.stages.width.residual import NarrowStream, narrow_residual
from neuromeld.stages.width.selectors import SELECTORS, Stream, principal
from neuromeld.stages.width.width_map import map_rank
from neuromeld.stats.base import TOKENS_PER_BLOCK
from neuromeld.transport import summarise_plan

SPECTRUM_POINTS = 32
"""Ranks at which the energy of leading directions is kept."""


@dataclass(frozen=True)
class WidthResult:
    """The map of each run of layers, from its first layer on, what was done with it, and how it was learned, if so."""

    starts: tuple[int, ...]
    runs: list[FittedRun]
    narrowed: NarrowStream
    looks: list[Look] = field(default_factory=list)


class WidthStage(Stage[Width, WidthResult]):
    """Narrow the residual stream by a width map for each run of layers."""

    name = "width"
    title = "narrowing the residual stream"
    prefix = "hidden"
    Options = Width

    def unavailable(self, spec: ArchSpec) -> str | None:
        """Say what the architecture's norms forbid."""
        reason = spec.refusal(Space.RESIDUAL)
        return (
            None if reason is None else f"the residual stream cannot be narrowed in {spec.model_type} models: {reason}"
        )

    def resize(self, sizes: Sizes, options: Width, target: Target) -> Sizes:
        """Return the sizes with a narrower stream, and the first layers of the runs that share a basis."""
        arch, d, multiple = target.arch, sizes.hidden, 1
        if target.output == "stock":
            multiple = stock_multiple(arch, target.original, sizes)
        # what the model's own width is no multiple of is not asked of a narrower one
        every = math.lcm(multiple, arch.spec.kernel_multiple, math.gcd(target.multiples.alike, d))
        k = options.hidden_size or round_width(d * (options.hidden_ratio or 1), d, every)
        if k > d:
            raise UserInputError(f"hidden_size={k} is wider than the model, whose hidden size is {d}")
        if k < 2:
            raise UserInputError(f"this leaves a width of {k} of {d}; at least 2 is needed: give a larger hidden_ratio")
        if k % multiple:
            low = k // multiple * multiple
            raise UserInputError(
                f"hidden_size={k} cannot be a stock {arch.spec.model_type} model: its config wants a multiple of its "
                f"{multiple} attention heads, so {low} or {low + multiple}; any width works with --native"
            )
        starts = tuple(range(0, sizes.num_layers, options.run_length(sizes.num_layers)))
        return replace(sizes, hidden=k, basis_starts=starts)

    def native_reasons(self, options: Width, target: Target, after: Sizes) -> list[str]:  # noqa: ARG002
        """Say what a stock config has no place for."""
        spec = target.arch.spec
        found = [spec.native_only[Space.RESIDUAL]] if Space.RESIDUAL in spec.native_only else []
        if target.arch.tied and spec.kind == "layer":
            found.append("a tied head behind a LayerNorm needs an adapter, which stock models have no place for")
        if len(after.basis_starts) > 1:
            found.append(
                "a stock model has no place for the changes of basis between runs of layers (--hidden-basis shared has "
                "none)"
            )
        return found

    def refusals(self, model: PreTrainedModel, arch: Architecture, options: Width) -> list[str]:  # noqa: ARG002
        """Refuse a selector that needs predictions where there are none."""
        if not self.learns(options) or arch.spec.has_loss:
            return []
        return [no_predictions(options.selector, arch.spec.model_class)]

    def learns(self, options: Width) -> bool:
        """Ask the selector."""
        return Need.LEARNING in SELECTORS[options.selector].needs

    def holds_out(self, options: Width) -> bool:
        """Hold data out for the refit, and for learning."""
        return options.refit or self.learns(options)

    def unknowns(self, options: Width, work: Workload) -> int:  # noqa: ARG002
        """Return the width that statistics determine."""
        return work.after.hidden

    def cost(self, options: Width, work: Workload) -> Cost:
        """Count shortcuts, head adapter and scales; predict moments, bases and narrow tables."""
        arch, d, k = work.arch, work.arch.width, work.after.hidden
        num_runs, adapter = len(work.after.basis_starts), arch.tied and work.target.output == "native"
        matrices = (num_runs - 1 + adapter) * k * k
        # The gain and bias of a norm behind the embedding become one scale a token and one shift.
        scales = work.after.vocab - k if arch.spec.embedding_norm is not None else 0
        streams = work.tokens * 4 * ((len(arch.spec.residual_norms) + 2) * d + 2 * k) if options.refit else 0
        learning = backward_bytes(work) if self.learns(options) else 0
        known = num_runs * 8 * (2 * d * d + 3 * d * k)  # statistics and bases
        rows = min(ROWS, max((arch.widths[w.in_] for w in arch.spec.embeddings), default=0))
        layer, table = largest_layer_bytes(work), max(table_bytes(work, d), default=0)
        moments = (2 * num_runs + 6) * 8 * d * d + 4 * 8 * TOKENS_PER_BLOCK * d
        refit = known + 2 * layer + 8 * (7 * k * k + 10 * k * d) + 4 * 8 * TOKENS_PER_BLOCK * (d + k)
        held = (2 * work.tokens + work.batch_tokens) * (d + k) * work.itemsize
        return Cost(
            parameters=matrices + scales,
            matrices=matrices,
            working_bytes=max(learning, streams + 4 * TOKENS_PER_BLOCK * 8 * d + 6 * 8 * d * d * num_runs),
            mapped_bytes=max(
                layer + moments,
                known + 2 * layer + 8 * arch.widths[Space.FFN] * (d + k),
                known + table + table * k // d + 8 * rows * (d + k),
                8 * 6 * d * d + light_backward_bytes(work) if learning else 0,
                refit if options.refit else 0,
            ),
            journal_bytes=sum(layer_bytes(work, index, work.after) for index in range(work.after.num_layers)),
            held_bytes=sum(table_bytes(work, k)) + held * options.refit,
        )

    def operations(self, options: Width, work: Workload) -> Operations:
        """Predict moments of every norm and a basis for each run of layers, the weights in it, and a refit."""
        arch, d, k = work.arch, work.arch.width, work.after.hidden
        norms = len(arch.spec.residual_norms) * work.before.num_layers + 1
        entries = predict_flops(arch, work.target.original, work.before, context=0) / 2 + sum(
            arch.widths[w.in_] * d for w in arch.spec.embeddings
        )
        narrow = share_of_pass(work, work.after)
        wide = share_of_pass(work, work.before)
        found = Operations(
            work.tokens * wide,
            norms * 2 * gram(work.tokens, d),
            len(work.after.basis_starts) * (EIGENVECTORS + EIGENVECTORS / 4) * d**3 + 2.0 * entries * k,
        )
        if self.learns(options):
            found += Operations(LEARNING * work.tokens)
        if options.refit:
            fits = norms * regression(k, d, len(LAMBDAS))
            found += Operations(work.tokens * (wide + narrow), norms * gram(work.tokens, k, d), fits)
        return found

    def run(self, job: Job, options: Width) -> WidthResult:
        """Collect statistics, fit a map for each run of layers, and narrow every weight by it."""
        starts, k = job.after.basis_starts, job.after.hidden
        statistics = stored_statistics(job, options, starts)
        streams = [stream_of(found, options, job.seed) for found in statistics]
        looks: list[Look] = []
        if self.learns(options):
            streams[0], looks = _learned(job, streams[0], k)
        found = list(zip(statistics, streams, strict=True))
        runs_of_layers = map_over_ranks(found, lambda run: fit_run(*run, arch=job.arch, width=options, k=k))
        narrowed = narrow_residual(job, [run.basis for run in runs_of_layers], refit=options.refit)
        if job.target.output == "native":
            attach_hooks(job.model, native_block(job.model, job.arch))
        return WidthResult(starts, runs_of_layers, narrowed, looks)

    def write_config(self, config: PretrainedConfig, target: Target, after: Sizes) -> None:
        """Set the hidden size."""
        for key in target.arch.spec.config_keys(Space.RESIDUAL):
            setattr(config, key, after.hidden)

    def warnings(self, result: WidthResult) -> list[str]:
        """Name the transports that did not converge."""
        return [
            f"the transport of run {number} of layers: {run.transport.message}"
            for number, run in enumerate(result.runs)
            if run.transport is not None and run.transport.status != "converged"
        ]

    def record(self, result: WidthResult) -> dict[str, Any]:
        """Return the energy and the transport of each run of layers, and the refit of each norm."""
        pictured = shown(len(result.runs))
        d, k = result.narrowed.bases[0].write.shape
        sizes = {"hidden_size_before": d, "hidden_size_after": k} if d != k else {}
        return sizes | {
            "runs": [
                _run(start, run, with_picture=index in pictured)
                for index, (start, run) in enumerate(zip(result.starts, result.runs, strict=True))
            ],
            "refits": {path: asdict(fit) for path, fit in result.narrowed.refits.items()},
            **({"directions_learned": [asdict(look) for look in result.looks]} if result.looks else {}),
        }

    def sentences(self, record: Record) -> list[Markup]:
        """Say of selector, merge and decoder what they do."""
        options = record.get("recipe", {}).get("width", {})
        found = [
            item("{} <b>{}</b>: {}", what.capitalize(), options[what], registry[options[what]].summary)
            for what, registry in (("selector", SELECTORS), ("merge", MERGES), ("decoder", DECODERS))
            if options.get(what) in registry
        ]
        if "basis" in options:
            basis = {"shared": "All layers share one basis.", "layer": "Every layer has a basis of its own."}
            found.append(item("{}", basis.get(options["basis"], f"Layers share a basis by runs ({options['basis']}).")))
        if options.get("refit"):
            found.append(item("What each layer reads was fitted again on calibration data."))
        return found

    def sections(self, record: Record) -> list[Section | None]:
        """Draw energy, transport and spectrum by run of layers, and the refit of each norm."""
        return [runs(record), learned(record), refits(record)]


def _learned(job: Job, stream: Stream, k: int) -> tuple[Stream, list[Look]]:
    """Return the stream with directions that were learned from the leading eigenvectors on, and how."""
    start = principal(stream, map_rank(k, job.arch.spec.kind)).directions
    directions = Directions(teacher_of(job), start)
    every = every_batch(job.data)
    with track("learning directions", steps_of(every), enabled=job.progress) as advance:
        best, looks = learn(directions, job.model, every, job.journal, advance)
    return replace(stream, learned=directions.directions(best)), looks


def _run(start: int, run: FittedRun, *, with_picture: bool) -> dict[str, Any]:
    """Return a run of layers; with its spectrum and its transport plan where there is to be a picture."""
    entry: dict[str, Any] = {"first_layer": start, "energy_kept": run.energy_kept, "transport": None}
    if run.transport is not None:
        entry["transport"] = {
            "status": run.transport.status,
            "iterations": run.transport.iterations,
            "marginal_error": run.transport.marginal_error,
        }
    if with_picture:
        total = run.spectrum.cumsum(0)
        ranks = sorted({max(1, i * len(total) // SPECTRUM_POINTS) for i in range(1, SPECTRUM_POINTS + 1)})
        entry["spectrum"] = [[rank, round(float(total[rank - 1]), 5)] for rank in ranks]
        if run.transport is not None and run.neurons is not None:
            entry["merges"] = asdict(summarise_plan(run.transport.plan, run.neurons))
    return entry
