"""The one order of steps: plan, statistics, maps, surgery; then save, load again and compare."""

import platform
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from neuromeld.archs import Architecture
from neuromeld.checkpoint import check_free, new_folder, render_card, save_checkpoint, save_record, verify_checkpoint
from neuromeld.checkpoint.native import make_native, native_block
from neuromeld.errors import UserInputError
from neuromeld.evaluate import bytes_on_disk, unique_parameters
from neuromeld.plan import Plan, architecture_of, make_plan, skeleton
from neuromeld.progress import track
from neuromeld.recipe import Recipe
from neuromeld.report import save_report
from neuromeld.sources import ModelSource, locate
from neuromeld.stats import Statistic, StatisticsStore, cache_key
from neuromeld.streams import Batch
from neuromeld.text import TokenWindows, check_vocabulary, token_windows
from neuromeld.version import __version__
from neuromeld.regression import HELD_OUT
from neuromeld.width import FittedRun, Narrowed, collect, empty_statistics, fit_run, narrow_residual

BATCH_WINDOWS = 4
"""Windows in one calibration batch, at most."""


@dataclass(frozen=True)
class Compressed:
    """A narrow model, and what was found and done on the way."""

    model: PreTrainedModel
    runs: list[FittedRun]
    narrowed: Narrowed


@dataclass(frozen=True)
class CompressResult:
    """What `compress` wrote to `out`; `record` is the content of its `record.json`."""

    out: Path
    plan: Plan
    record: dict[str, Any]

    @property
    def kept_ratio(self) -> float:
        """Unique parameters on disk over the original's."""
        return float(self.record["kept_ratio"])


def plan_for(source: str, recipe: Recipe, *, dtype: torch.dtype | None = None, allow_pickle: bool = False) -> Plan:
    """The dry run: what `compress` would make, from the config alone."""
    return _plan(locate(source, allow_pickle=allow_pickle), recipe, dtype)


def compress(
    source: str,
    recipe: Recipe,
    out: str | Path,
    *,
    force: bool = False,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    allow_pickle: bool = False,
    progress: bool = False,
) -> CompressResult:
    """Compress the model at `source` by `recipe` and write it to the folder `out`.

    source   a folder, a hub id, a `.gguf` file, or `package:NAME`
    dtype    of the model while it is compressed and on disk; None keeps the checkpoint's own

    The folder appears complete or not at all: it is written beside, loaded again, compared and then renamed.  Raises a
    `NeuromeldError` for everything that can be wrong with the arguments, the model or the disk.
    """
    started = time.monotonic()
    out = Path(out)
    check_free(out, force=force)
    located = locate(source, allow_pickle=allow_pickle)
    plan = _plan(located, recipe, dtype)
    tokenizer = located.tokenizer()
    text = recipe.calibration
    windows = token_windows(
        text.text, tokenizer, split="calibration", num_tokens=text.tokens, seqlen=text.seqlen, seed=text.seed
    )
    check_vocabulary(windows, located.config().get_text_config().vocab_size)
    model = located.load(dtype, device)
    cache = {"model": located.fingerprint(), "data": windows.sha256, "dtype": str(model.dtype)}
    compressed = compress_model(model, plan, batches_of(windows), cache=cache, progress=progress)
    model = compressed.model
    with new_folder(out, force=force) as folder, torch.no_grad():
        record = _record(located, plan, windows, compressed, model)
        probe = windows.input_ids[:1, :64].to(device)
        logits = model(input_ids=probe, use_cache=False).logits
        model_dtype = model.dtype
        save_checkpoint(model, tokenizer, folder, recipe_yaml=recipe.to_yaml())
        del model, compressed
        record |= {"logit_difference": verify_checkpoint(folder, logits, probe, dtype=model_dtype)}
        record |= {"bytes_on_disk": bytes_on_disk(folder)}
        record |= {"seconds": time.monotonic() - started, "peak_rss_bytes": peak_rss_bytes()}
        save_record(folder, record, card=render_card(record))
        save_report(folder)
    return CompressResult(out, plan, record)


def compress_model(
    model: PreTrainedModel,
    plan: Plan,
    data: Sequence[Batch],
    *,
    cache: Mapping[str, str] | None = None,
    progress: bool = False,
) -> Compressed:
    """Narrow a live model in place, by a plan made for it.

    data    calibration batches: `input_ids (batch, time)` and, where there is padding, `attention_mask`
    cache   facts that identify model and data; given, statistics are kept on disk and found there again

    Returns the same model object; in the native format its class and config change.
    """
    arch = architecture_of(model)
    if not data:
        raise UserInputError("no calibration batches were given")
    recipe, training = plan.recipe, model.training
    if recipe.width.refit and len(data) < 2:
        raise UserInputError(
            "the refit holds part of the calibration batches out: give at least two, or set refit=False"
        )
    model.eval()
    statistics = _statistics(model, arch, plan, data, cache, progress)
    runs = [fit_run(found, arch, recipe.width, plan.hidden_size_after, recipe.calibration.seed) for found in statistics]
    with track("narrowing layers", arch.num_layers, enabled=progress) as advance:
        narrowed = narrow_residual(
            model,
            arch,
            plan.starts,
            [run.basis for run in runs],
            stock=plan.format == "stock",
            refit_on=data if recipe.width.refit else None,
            advance=advance,
        )
    _set_config(model, arch, plan)
    model.train(training)
    assert unique_parameters(model) == plan.parameters_after, "the plan mispredicted the parameters"
    return Compressed(model, runs, narrowed)


def batches_of(windows: TokenWindows) -> list[Batch]:
    """Token windows as calibration batches: at least eight where there are as many windows."""
    size = min(BATCH_WINDOWS, max(1, len(windows.input_ids) // HELD_OUT))
    return [{"input_ids": ids} for ids in windows.input_ids.split(size)]


def peak_rss_bytes() -> int:
    """The largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def _plan(source: ModelSource, recipe: Recipe, dtype: torch.dtype | None) -> Plan:
    config = source.config()
    own = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    return make_plan(skeleton(config), recipe, dtype=dtype or own)


def _statistics(
    model: PreTrainedModel,
    arch: Architecture,
    plan: Plan,
    data: Sequence[Batch],
    cache: Mapping[str, str] | None,
    progress: bool,
) -> list[dict[str, Statistic]]:
    """The statistics of each run of layers, from the cache where they are there."""
    width = plan.recipe.width
    store = StatisticsStore() if cache is not None else None
    key = cache_key(**(cache or {}), starts=plan.starts, names=list(empty_statistics(model, arch, width)))
    stored = store.load(key) if store else None
    if stored is not None:
        statistics = [empty_statistics(model, arch, width) for _ in plan.starts]
        for run, found in enumerate(statistics):
            for name, statistic in found.items():
                statistic.load_state(stored[f"{run}.{name}"])
        return statistics
    with track("collecting statistics", len(data), enabled=progress) as advance:
        statistics = collect(model, arch, data, plan.starts, width, advance)
    if store:
        states = {f"{run}.{name}": s.state() for run, found in enumerate(statistics) for name, s in found.items()}
        store.save(key, states)
    return statistics


def _set_config(model: PreTrainedModel, arch: Architecture, plan: Plan) -> None:
    """Make the config tell the truth about the narrow model."""
    spec, config = arch.spec, model.config
    if plan.format == "native":
        make_native(model, native_block(arch, plan))
        return
    assert spec.stock_width is not None
    if spec.pins_head_dim:
        config.head_dim = getattr(config, "head_dim", None) or arch.width // config.num_attention_heads
    setattr(config, spec.stock_width, plan.hidden_size_after)


def _record(
    source: ModelSource, plan: Plan, windows: TokenWindows, compressed: Compressed, model: PreTrainedModel
) -> dict[str, Any]:
    """What `record.json` says before the files exist."""
    after = unique_parameters(model)
    refits = {
        path: {"error_before": r.error_before, "error_after": r.error_after, "ridge": r.ridge}
        for path, r in compressed.narrowed.refits.items()
    }
    runs = [
        {
            "first_layer": start,
            "energy_kept": run.energy_kept,
            "transport": run.transport
            and {
                "status": run.transport.status,
                "iterations": run.transport.iterations,
                "marginal_error": run.transport.marginal_error,
            },
        }
        for start, run in zip(plan.starts, compressed.runs, strict=True)
    ]
    return {
        "source": source.name,
        "source_kind": source.kind,
        "source_sha256": source.fingerprint(),
        "model_type": plan.model_type,
        "format": plan.format,
        "dtype": str(model.dtype).removeprefix("torch."),
        "parameters_before": plan.parameters_before,
        "parameters_after": after,
        "kept_ratio": after / plan.parameters_before,
        "hidden_size_before": plan.hidden_size_before,
        "hidden_size_after": plan.hidden_size_after,
        "recipe": plan.recipe.model_dump(exclude_none=True),
        "calibration": {
            "source": windows.source,
            "split": windows.split,
            "sha256": windows.sha256,
            "tokens": windows.num_tokens,
        },
        "runs": runs,
        "refits": refits,
        "warnings": list(plan.warnings),
        "versions": {"neuromeld": __version__} | {name: version(name) for name in ("torch", "transformers")},
    }
