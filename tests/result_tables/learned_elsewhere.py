"""What learning which neurons to keep gives on models that read no plain text."""

import json
from pathlib import Path

from result_tables.markdown import table

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"

NAMES = {"ruaccent": "ruaccent", "dinov2": "DINOv2-S", "whisper": "Whisper tiny.en"}


def learned_elsewhere() -> str:
    """Validation losses over the original's of each way to choose neurons: the mean of all seeds, and each."""
    path = RESULTS / "learned_elsewhere.jsonl"
    found: dict[str, dict[str, list[float]]] = {}
    for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        found.setdefault(line["row"], {}).setdefault(line["model"], []).append(line["loss"] - line["original"])
    models = [model for model in NAMES if any(model in by_model for by_model in found.values())]
    head = ["", *(NAMES[model] for model in models)]
    return table(head, [[row, *(_said(by_model.get(model)) for model in models)] for row, by_model in found.items()])


def _said(losses: list[float] | None) -> str:
    if losses is None:
        return "not measured"
    each = ", ".join(f"{loss:.3g}" for loss in losses)
    return f"{sum(losses) / len(losses):.3g} ({each})" if len(losses) > 1 else each
