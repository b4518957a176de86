"""What `record.json` says of a compression."""

from dataclasses import asdict
from typing import Any

from transformers import PreTrainedModel

from neuromeld.archs.sizes import changes
from neuromeld.archs.spec import FFN, HEADS
from neuromeld.checkpoint.source import ModelSource
from neuromeld.evaluate import unique_parameters
from neuromeld.linalg.ridge import FitReport
from neuromeld.modalities import Examples
from neuromeld.planning.pipeline import Compressed
from neuromeld.planning.plan import Plan
from neuromeld.stages.share_ffns import Window
from neuromeld.stages.width import FittedRun
from neuromeld.transport import summarise_plan
from neuromeld.version import versions

SPECTRUM_POINTS = 32
"""Ranks at which the energy of leading directions is kept."""


def compression_record(
    source: ModelSource, plan: Plan, data: Examples, compressed: Compressed, model: PreTrainedModel
) -> dict[str, Any]:
    """What `record.json` says before the files exist."""
    after = unique_parameters(model)
    refits = compressed.narrowed.refits if compressed.narrowed else {}
    runs = [
        _run(start, run, with_picture=index in _shown(len(plan.basis_starts)))
        for index, (start, run) in enumerate(zip(plan.basis_starts, compressed.runs, strict=True))
    ]
    record = {
        "source": source.name,
        "source_kind": source.kind,
        "source_sha256": source.fingerprint(),
        "model_type": plan.model_type,
        "format": plan.format,
        "dtype": str(model.dtype).removeprefix("torch."),
        "parameters_before": plan.parameters_before,
        "parameters_after": after,
        "kept_ratio": after / plan.parameters_before,
        "sizes_before": asdict(plan.before),
        "sizes_after": asdict(compressed.plan.after),
        "changes": changes(plan.before, compressed.plan.after),
        "recipe": plan.recipe.model_dump(exclude_none=True),
        "calibration": {
            "source": data.source,
            "split": data.split,
            "sha256": data.sha256,
            "tokens": data.num_tokens,
        },
        "bytes_on_disk_before": source.bytes_on_disk(),
        "runs": runs,
        "refits": {path: _errors(fit) for path, fit in refits.items()},
        "ffn": _narrowings(compressed, FFN),
        "heads": _narrowings(compressed, HEADS),
        "warnings": [*plan.warnings, *compressed.warnings],
        "versions": versions(),
    }
    if plan.before.hidden != plan.after.hidden:
        record |= {"hidden_size_before": plan.before.hidden, "hidden_size_after": plan.after.hidden}
    if compressed.dropped:
        record |= {"dropped": compressed.dropped, "dropped_windows": _tried(compressed, "drop_layers")}
    if compressed.deleted:
        record |= {"removed_ffns": compressed.deleted, "removed_ffns_windows": _tried(compressed, "remove_ffns")}
    if compressed.merged:
        # The window of the first stack: the others are merged in step.
        record |= {"window": _span(compressed.merged[0].window), "windows": _tried(compressed, "share_ffns")}
        record["members"] = [asdict(member) for part in compressed.merged for member in part.members]
        record["window_refits"] = [_errors(part.refit) for part in compressed.merged if part.refit is not None]
    return {key: value for key, value in record.items() if value not in ([], {})}


def with_measurements(record: dict[str, Any], before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """The record with what `evaluate` found of the original model and of this one; newer numbers replace older ones.

    Perplexities on other texts stay, and tasks where none were asked.
    """
    record = dict(record)
    if "perplexity" in after:
        protocol = after["protocol"]
        measured = {name: after[name] for name in ("perplexity", "tokens", "protocol")}
        measured["perplexity_before"] = before["perplexity"]
        others = [
            entry
            for entry in record.get("evaluation", [])
            if any(entry["protocol"].get(name) != protocol[name] for name in ("source", "split"))
        ]
        record["evaluation"] = [measured, *others]
    if "tasks" in after:
        found = {
            task: entry | {"accuracy_before": before["tasks"][task]["accuracy"]}
            for task, entry in after["tasks"].items()
        }
        record |= {"tasks": found, "retained_performance": after["retained_performance"]}
    return record


def _errors(fit: FitReport) -> dict[str, Any]:
    return {
        "error_before": fit.error_before,
        "error_after": fit.error_after,
        "ridge": fit.ridge,
        "condition": fit.condition,
    }


def _run(start: int, run: FittedRun, *, with_picture: bool) -> dict[str, Any]:
    """A run of layers; its spectrum and its transport plan too, where there is to be a picture."""
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


def _shown(count: int) -> set[int]:
    """Of which of many layers or runs there are pictures: first, middle and last."""
    return {0, count // 2, count - 1}


def _narrowings(compressed: Compressed, space: str) -> list[dict[str, Any]]:
    unit = "width" if space == FFN else "groups"
    found = [entry for entry in compressed.neurons if entry.space == space]
    entries = []
    for index, entry in enumerate(found):
        place = {"layer": entry.layer} | ({} if entry.expert is None else {"expert": entry.expert})
        sizes = place | {f"{unit}_before": entry.before, f"{unit}_after": entry.after}
        entries.append(sizes | _errors(entry.fit))
        if entry.merges is not None and index in _shown(len(found)):
            entries[-1]["merges"] = asdict(entry.merges)
    return entries


def _tried(compressed: Compressed, stage: str) -> list[dict[str, Any]]:
    search = compressed.searches.get(stage)
    return [_span(candidate.window) | {"loss": candidate.loss} for candidate in search.candidates] if search else []


def _span(window: Window) -> dict[str, Any]:
    return {"start": window.start, "end": window.stop - 1}
