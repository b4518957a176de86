"""Make the `record.json` of a compression."""

from dataclasses import asdict
from typing import Any

from transformers import PreTrainedModel

from neuromeld.archs.sizes import changes
from neuromeld.checkpoint.source import ModelSource
from neuromeld.evaluation import unique_parameters
from neuromeld.modalities import Examples
from neuromeld.planning.pipeline import Compressed
from neuromeld.planning.plan import Plan
from neuromeld.version import versions


def compression_record(
    source: ModelSource, plan: Plan, data: Examples, compressed: Compressed, model: PreTrainedModel
) -> dict[str, Any]:
    """Return what `record.json` says before the files exist."""
    after = unique_parameters(model)
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
        "sizes_after": asdict(compressed.sizes),
        "changes": changes(plan.before, compressed.sizes),
        "recipe": plan.recipe.model_dump(exclude_none=True),
        "calibration": {
            "source": data.source,
            "split": data.split,
            "sha256": data.sha256,
            "tokens": data.num_tokens,
            "passes": compressed.passes,
        },
        "bytes_on_disk_before": source.bytes_on_disk(),
        "warnings": [*plan.warnings, *compressed.warnings],
        "versions": versions(),
    }
    record |= compressed.record()
    return {key: value for key, value in record.items() if value not in ([], {})}


def with_measurements(record: dict[str, Any], before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Return the record with what `evaluate` found of the original model and of this one; newer numbers replace older
    ones.

    Perplexities on other texts stay, and tasks where none were asked.
    """
    record = dict(record)
    if "perplexity" in after:
        pairs = zip(before.get("texts", [before]), after.get("texts", [after]), strict=True)
        measured = [_measured_text(*pair) for pair in pairs]
        known = [_text_of(entry) for entry in measured]
        others = [entry for entry in record.get("evaluation", []) if _text_of(entry) not in known]
        record["evaluation"] = [*measured, *others]
    if "tasks" in after:
        found = {
            task: entry | {"accuracy_before": before["tasks"][task]["accuracy"]}
            for task, entry in after["tasks"].items()
        }
        record |= {"tasks": found, "retained_performance": after["retained_performance"]}
    return record


def _measured_text(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Return what the record says of one text."""
    measured = {name: after[name] for name in ("perplexity", "tokens", "protocol")}
    if before["protocol"]["sha256"] == after["protocol"]["sha256"]:  # else the tokens are others
        measured["perplexity_before"] = before["perplexity"]
    if "bits_per_byte" in after and "bits_per_byte" in before:
        measured |= {"bits_per_byte": after["bits_per_byte"], "bits_per_byte_before": before["bits_per_byte"]}
    return measured


def _text_of(entry: dict[str, Any]) -> tuple[Any, Any]:
    return entry["protocol"].get("source"), entry["protocol"].get("split")
