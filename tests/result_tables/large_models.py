"""Predictions for models that do not fit on a machine at hand, by `benchmarks/large_models.py`."""

import json
from pathlib import Path
from typing import Any

from neuromeld.planning.duration import said
from result_tables.markdown import table

PARTS = ("passes", "sums", "factors", "moving", "disk")

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "large_models.jsonl"


def space() -> str:
    """What each job takes of memory and disk."""
    head = ["", "kept", "memory", "memory, weights on the disk", "card", "disk"]
    rows = [
        [
            f"{row['model']}: {row['job']}",
            f"{row['kept_ratio']:.3f}",
            _size(row["peak_bytes"]),
            _size(row["mapped_bytes"]) if row["mapped_bytes"] else "refused",
            _size(row["device_bytes"]) if row["device_bytes"] else "all weights",
            _size(row["disk_bytes"]),
        ]
        for row in _rows()
        if "kept_ratio" in row
    ]
    return table(head, rows)


def time() -> str:
    """How long each job takes, part by part, without a look at both models."""
    head = ["", "plain passes", "passes", "sums", "factors", "moving", "disk", "one card", "eight cards"]
    rows = []
    for row in _rows():
        one, eight = (row["time"][ranks] for ranks in ("1", "8"))
        parts = [
            said(one[part]) if one[part] >= 0.5 else "" for part in ("passes", "sums", "factors", "moving", "disk")
        ]
        totals = [said(found["seconds"] - found["looking"]) for found in (one, eight)]
        rows.append([f"{row['model']}: {row['job']}", f"{row['plain_passes']:.2f}", *parts, *totals])
    return table(head, rows)


def looking() -> str:
    """How long a look at both models takes."""
    seen = {row["model"]: row["time"]["1"]["looking"] for row in _rows() if "kept_ratio" in row}
    return "; ".join(f"{model}: {said(seconds)}" for model, seconds in seen.items()) + "\n"


def _rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()]


def _size(count: int) -> str:
    return f"{count / 1e9:,.0f} GB"
