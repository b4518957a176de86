"""The one order of the stages on a live model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel

from neuromeld.archs import Architecture
from neuromeld.archs.spec import FFN, RESIDUAL
from neuromeld.errors import UserInputError
from neuromeld.evaluate import mean_loss, unique_parameters
from neuromeld.linalg.ridge import is_held_out
from neuromeld.model.capture import Batch
from neuromeld.model.native.block import make_native, native_block
from neuromeld.model.native.modeling import attach_hooks, attach_member_hooks
from neuromeld.planning.plan import Plan, architecture_of, delete_from
from neuromeld.runtime.distributed import map_over_ranks, num_ranks, shard_batches
from neuromeld.runtime.journal import NO_JOURNAL, Journal
from neuromeld.runtime.progress import timed, track
from neuromeld.stages.share_ffns import (
    Merged,
    Window,
    WindowSearch,
    collect_alignments,
    collect_strengths,
    drop_layers,
    remove_ffns,
    search_windows,
    share_ffns,
    windows_of,
)
from neuromeld.stages.share_ffns.options import DropLayers, RemoveFfns, ShareFfns
from neuromeld.stages.width import FittedRun, WidthResult, collect, empty_statistics, fit_run, narrow_residual
from neuromeld.stats import Statistic, StatisticsStore, cache_key
from neuromeld.units import SublayerResult, narrow_neurons

SAMPLE_EVERY, SAMPLE_LEAST = 4, 4
"""What FFNs to merge, and how, is found on every fourth calibration batch, or on more of them to have four."""


@dataclass
class Compressed:
    """A smaller model, and what each stage found and did on the way; None and empty where it did not run.

    `plan` is the one that was asked for, with the sizes of the layers that were found on the way.  `seconds` are by
    stage, FFNs and heads together.
    """

    model: PreTrainedModel
    plan: Plan
    dropped: list[int] = field(default_factory=list)
    deleted: list[int] = field(default_factory=list)
    neurons: list[SublayerResult] = field(default_factory=list)
    runs: list[FittedRun] = field(default_factory=list)
    narrowed: WidthResult | None = None
    merged: list[Merged] = field(default_factory=list)
    searches: dict[str, WindowSearch] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def warnings(self) -> list[str]:
        """What went less well than it should, one sentence each."""
        return [
            f"the transport of run {number} of layers: {run.transport.message}"
            for number, run in enumerate(self.runs)
            if run.transport is not None and run.transport.status != "converged"
        ]


def compress_model(
    model: PreTrainedModel,
    plan: Plan,
    data: Sequence[Batch],
    *,
    validation: Sequence[Batch] = (),
    cache: Mapping[str, str] | None = None,
    journal: Journal = NO_JOURNAL,
    progress: bool = False,
) -> Compressed:
    """Make a live model smaller in place, by a plan made for it.

    data        calibration batches: `input_ids (batch, time)` and, where there is padding, `attention_mask`; of several
                processes each is given all of them, and takes its share
    validation  batches that windows of layers are chosen on; by default the calibration batches that are held out
    cache       facts that identify model and data; given, statistics are kept on disk and found there again
    journal     takes and gives the results of long steps, of this very job

    Returns the same model object; in the native format its class and config change.
    """
    arch = architecture_of(model)
    training = model.training
    model.eval()
    done, arch = run_stages(
        model, arch, plan, data, validation=validation, cache=cache, journal=journal, progress=progress
    )
    _set_config(model, arch, done.plan)
    model.train(training)
    found = unique_parameters(model)
    assert found == plan.parameters_after, f"the plan predicted {plan.parameters_after} parameters, not {found}"
    return done


def run_stages(
    model: PreTrainedModel,
    arch: Architecture,
    plan: Plan,
    data: Sequence[Batch],
    *,
    validation: Sequence[Batch] = (),
    cache: Mapping[str, str] | None = None,
    journal: Journal = NO_JOURNAL,
    progress: bool = False,
) -> tuple[Compressed, Architecture]:
    """The stages alone: what they leave runs, but its class and config are still the old ones.

    Also returns the architecture without the layers that were dropped.
    """
    if not data:
        raise UserInputError("no calibration batches were given")
    if len(data) < 2 and _holds_out(plan):
        raise UserInputError("part of the calibration batches is held out: give at least two")
    validation = validation or [batch for b, batch in enumerate(data) if is_held_out(b, len(data))]
    data, sample = shard_batches(data), _sample(data)
    done = Compressed(model, plan)
    if plan.recipe.drop_layers is not None:
        with timed(done.seconds, "dropping layers"):
            done.dropped = _find_layers(
                done, arch, "drop_layers", plan.recipe.drop_layers, drop_layers, validation, journal, progress
            )
            arch = drop_layers(model, arch, done.dropped)
    if plan.recipe.remove_ffns is not None:
        with timed(done.seconds, "deleting FFNs"):
            done.deleted = _find_layers(
                done, arch, "remove_ffns", plan.recipe.remove_ffns, _remove_ffns, validation, journal, progress
            )
            _remove_ffns(model, arch, done.deleted)
        whole = replace(plan.after, ffn=(arch.widths[FFN],) * arch.num_layers)
        plan = done.plan = replace(plan, after=delete_from(whole, arch, done.deleted))
    if plan.recipe.heads is not None or plan.recipe.ffn is not None:
        with timed(done.seconds, "narrowing attention and FFNs"):
            _narrow_neurons(done, arch, plan, data, journal, progress)
    if plan.recipe.width is not None:
        # The cache knows the original model only.
        cache = cache if plan.recipe.stages[0] == "width" else None
        with timed(done.seconds, "narrowing the residual stream"):
            _narrow_stream(done, arch, plan, data, cache, journal, progress)
    if plan.recipe.share_ffns is not None:
        sizes = {RESIDUAL: plan.after.hidden, FFN: plan.after.ffn[0]}
        narrow = replace(arch, width=plan.after.hidden, widths=arch.widths | sizes)
        with timed(done.seconds, "merging FFNs"):
            done.merged = _share_ffns(done, narrow, plan.recipe.share_ffns, data, sample, validation, journal, progress)
        attach_member_hooks(model, native_block(model, arch))
    return done, arch


def _sample(data: Sequence[Batch]) -> Sequence[Batch]:
    """This rank's share of every fourth batch, or of more where these would be fewer than four, or than ranks."""
    return shard_batches(data[:: min(SAMPLE_EVERY, max(1, len(data) // max(SAMPLE_LEAST, num_ranks())))])


def _holds_out(plan: Plan) -> bool:
    recipe = plan.recipe
    return (
        recipe.ffn is not None
        or recipe.heads is not None
        or (recipe.width is not None and recipe.width.refit)
        or (recipe.share_ffns is not None and recipe.share_ffns.compensate == "ridge")
    )


def _narrow_neurons(
    done: Compressed, arch: Architecture, plan: Plan, data: Sequence[Batch], journal: Journal, progress: bool
) -> None:
    recipe, after = plan.recipe, plan.after
    with track("narrowing attention and FFNs", arch.num_layers, enabled=progress) as advance:
        done.neurons = narrow_neurons(
            done.model,
            arch,
            data,
            num_kv_heads=plan.before.num_kv_heads[0],
            heads=None if recipe.heads is None else (recipe.heads, after.num_kv_heads),
            ffn=None if recipe.ffn is None else (recipe.ffn, after.ffn),
            seed=recipe.calibration.seed,
            journal=journal,
            advance=advance,
        )


def _narrow_stream(
    done: Compressed,
    arch: Architecture,
    plan: Plan,
    data: Sequence[Batch],
    cache: Mapping[str, str] | None,
    journal: Journal,
    progress: bool,
) -> None:
    width = plan.recipe.width
    assert width is not None
    k, seed = plan.after.hidden, plan.recipe.calibration.seed
    statistics = _statistics(done.model, arch, plan, data, cache, journal, progress)
    done.runs = map_over_ranks(statistics, lambda found: fit_run(found, arch, width, k, seed))
    with track("narrowing the residual stream", arch.num_layers, enabled=progress) as advance:
        done.narrowed = narrow_residual(
            done.model,
            arch,
            plan.basis_starts,
            [run.basis for run in done.runs],
            stock=plan.format == "stock",
            refit_on=data if width.refit else None,
            journal=journal,
            advance=advance,
        )
    if plan.format == "native":
        attach_hooks(done.model, native_block(done.model, arch))


def _find_layers(
    done: Compressed,
    arch: Architecture,
    stage: str,
    options: DropLayers | RemoveFfns,
    remove: Callable[[PreTrainedModel, Architecture, Sequence[int]], object],
    validation: Sequence[Batch],
    journal: Journal,
    progress: bool,
) -> list[int]:
    """The layers that a stage names, or the window whose removal raises the loss least."""
    if options.layers is not None:
        return sorted(set(options.layers))
    windows = windows_of(arch, options.number)
    with track(f"choosing layers: {stage}", len(windows), enabled=progress) as advance:
        search = search_windows(
            done.model,
            windows,
            lambda window: remove(done.model, arch, window),
            lambda model: mean_loss(model, validation),
            advance,
            journal,
            stage,
        )
    done.searches[stage] = search
    return list(search.best.window)


def _remove_ffns(model: PreTrainedModel, arch: Architecture, layers: Sequence[int]) -> None:
    """Delete the FFNs of layers that are counted from 0 in every stack."""
    remove_ffns(model, arch, [start + layer for start in arch.stack_offsets for layer in layers])


def _share_ffns(
    done: Compressed,
    arch: Architecture,
    options: ShareFfns,
    data: Sequence[Batch],
    sample: Sequence[Batch],
    validation: Sequence[Batch],
    journal: Journal,
    progress: bool,
) -> list[Merged]:
    model = done.model
    if options.window is not None:
        windows = [range(options.window[0], options.window[1] + 1)]
    else:
        windows = windows_of(arch, options.length, at_least=2)
    everywhere = [part for window in windows for part in arch.in_step(window)]
    alignments = strengths = None
    if options.align == "permute":
        with track("aligning FFNs", len(sample), enabled=progress) as advance:
            alignments = collect_alignments(model, arch, everywhere, options.anchor, sample, advance)
    if options.combined == "strongest":
        with track("measuring units of FFNs", len(sample), enabled=progress) as advance:
            strengths = collect_strengths(model, arch, everywhere, sample, advance)

    def merge(window: Window, batches: Sequence[Batch], **kept: Any) -> list[Merged]:
        return [
            share_ffns(
                model,
                arch,
                part,
                batches,
                anchor=options.anchor,
                align=options.align,
                combine=options.combined,
                compensate=options.compensate,
                alignments=alignments,
                strengths=strengths,
                **kept,
            )
            for part in arch.in_step(window)
        ]

    best = windows[0]
    if len(windows) > 1:
        with track("choosing FFNs to merge", len(windows), enabled=progress) as advance:
            search = search_windows(
                model,
                windows,
                lambda window: merge(window, sample),
                lambda m: mean_loss(m, validation),
                advance,
                journal,
                "share_ffns",
            )
        done.searches["share_ffns"] = search
        best = search.best.window
    return merge(best, data, gain=options.gain, rank=options.rank)


def _statistics(
    model: PreTrainedModel,
    arch: Architecture,
    plan: Plan,
    data: Sequence[Batch],
    cache: Mapping[str, str] | None,
    journal: Journal,
    progress: bool,
) -> list[dict[str, Statistic]]:
    """The statistics of each run of layers, from the cache or the journal where they are there."""
    width = plan.recipe.width
    assert width is not None
    folder = None if cache is not None else journal.folder
    store = StatisticsStore(folder) if cache is not None or folder is not None else None
    of = cache if cache is not None else {"part": journal.part}
    key = cache_key(**of, starts=plan.basis_starts, names=list(empty_statistics(model, arch, width)))
    stored = store.load(key) if store else None
    if stored is not None:
        statistics = [empty_statistics(model, arch, width) for _ in plan.basis_starts]
        for run, found in enumerate(statistics):
            for name, statistic in found.items():
                statistic.load_state(stored[f"{run}.{name}"])
        return statistics
    with track("collecting statistics", len(data), enabled=progress) as advance:
        statistics = collect(model, arch, data, plan.basis_starts, width, advance)
    if store:
        states = {f"{run}.{name}": s.state() for run, found in enumerate(statistics) for name, s in found.items()}
        store.save(key, states)
    return statistics


def _set_config(model: PreTrainedModel, arch: Architecture, plan: Plan) -> None:
    """Make the config tell the truth about the smaller model."""
    spec, config = arch.spec, model.config
    if plan.format == "native":
        make_native(model, native_block(model, arch))
        return
    if spec.writes_head_dim:
        config.head_dim = getattr(config, "head_dim", None) or arch.width // config.num_attention_heads
    if plan.recipe.width is not None:
        _set(config, spec.config_keys(RESIDUAL), plan.after.hidden)
    if plan.recipe.ffn is not None:
        _set(config, spec.config_keys(FFN), plan.after.ffn[0])
    if plan.recipe.heads is not None:
        assert spec.head_keys is not None
        query, key_value = spec.head_keys
        per_group = getattr(config, query) // plan.before.num_kv_heads[0]
        setattr(config, query, per_group * plan.after.num_kv_heads[0])
        setattr(config, key_value, plan.after.num_kv_heads[0])


def _set(config: PretrainedConfig, keys: Sequence[str], size: int) -> None:
    for key in keys:
        setattr(config, key, size)
