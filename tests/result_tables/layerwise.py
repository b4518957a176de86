"""Layers trained one at a time, on models that read no plain text."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from result_tables.markdown import table

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "layerwise.jsonl"
NAMES = {"dinov2": "DINOv2-S", "whisper": "Whisper tiny.en", "ruaccent": "ruaccent"}


def layerwise() -> str:
    """Validation losses: of the original, of what was made smaller, and of that after each kind of training."""
    rows: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for line in map(json.loads, RESULTS.read_text(encoding="utf-8").splitlines()):
        rows.setdefault((line["model"], line["row"]), {})[line["training"]] = line
    trained = ["layers", "predictions", "layers, then predictions", "layers better"]
    head = ["", "made smaller", "original", "before", *trained]
    return table(head, [[NAMES[model], row, *_figures(found)] for (model, row), found in rows.items()])


def _figures(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    one = found["layers"]
    ways = ("layers", "predictions", "layers, predictions")
    losses = [one["original"], one["compressed"], *(found[way]["after"] for way in ways)]
    return [*(f"{loss:#.3g}" for loss in losses), str(one["layers_better"])]
