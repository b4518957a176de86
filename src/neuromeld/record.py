"""What `record.json` says of a compression."""

from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from transformers import PreTrainedModel

from neuromeld.archs.spec import FFN, HEADS
from neuromeld.evaluate import unique_parameters
from neuromeld.inputs import Examples
from neuromeld.neurons import Narrowing
from neuromeld.pipeline import Compressed
from neuromeld.plan import Plan
from neuromeld.regression import Fit
from neuromeld.sizes import changes
from neuromeld.sources import ModelSource
from neuromeld.sublayers import Window
from neuromeld.version import __version__


def versions() -> dict[str, str]:
    """Of this package, and of those that results depend on."""
    return {"neuromeld": __version__} | {name: version(name) for name in ("torch", "transformers")}


def compression_record(
    source: ModelSource, plan: Plan, data: Examples, compressed: Compressed, model: PreTrainedModel
) -> dict[str, Any]:
    """What `record.json` says before the files exist."""
    after = unique_parameters(model)
    refits = compressed.narrowed.refits if compressed.narrowed else {}
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
        "ffn": [_narrowing(entry) for entry in compressed.neurons if entry.space == FFN],
        "heads": [_narrowing(entry) for entry in compressed.neurons if entry.space == HEADS],
        "warnings": [*plan.warnings, *compressed.warnings],
        "versions": versions(),
    }
    if plan.before.hidden != plan.after.hidden:
        record |= {"hidden_size_before": plan.before.hidden, "hidden_size_after": plan.after.hidden}
    if compressed.dropped:
        record |= {"dropped": compressed.dropped, "dropped_windows": _tried(compressed, "drop_layers")}
    if compressed.deleted:
        record |= {"deleted_ffs": compressed.deleted, "deleted_ffs_windows": _tried(compressed, "delete_ffs")}
    if compressed.merged:
        # The window of the first stack: the others are merged in step.
        record |= {"window": _span(compressed.merged[0].window), "windows": _tried(compressed, "merge_ffs")}
        record["members"] = [asdict(member) for part in compressed.merged for member in part.members]
        record["window_refits"] = [_errors(part.refit) for part in compressed.merged if part.refit is not None]
    return {key: value for key, value in record.items() if value not in ([], {})}


def _errors(fit: Fit) -> dict[str, Any]:
    return {
        "error_before": fit.error_before,
        "error_after": fit.error_after,
        "ridge": fit.ridge,
        "condition": fit.condition,
    }


def _narrowing(entry: Narrowing) -> dict[str, Any]:
    unit = "width" if entry.space == FFN else "groups"
    return {"layer": entry.layer, f"{unit}_before": entry.before, f"{unit}_after": entry.after} | _errors(entry.fit)


def _tried(compressed: Compressed, stage: str) -> list[dict[str, Any]]:
    search = compressed.searches.get(stage)
    return [_span(candidate.window) | {"loss": candidate.loss} for candidate in search.candidates] if search else []


def _span(window: Window) -> dict[str, Any]:
    return {"start": window.start, "end": window.stop - 1}
