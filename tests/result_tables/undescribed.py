"""Real models that no family describes, made smaller."""

import json
from pathlib import Path

from result_tables.markdown import table

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "undescribed.jsonl"

SCORES = {"cosine": "{:.4f}", "divergence": "{:.4f}", "agreement": "{:.1%}"}


def undescribed() -> str:
    """One row for each model and what was done to it."""
    lines = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    rows = []
    for line in lines:
        scores = [form.format(line[key]) if key in line else "" for key, form in SCORES.items()]
        rows.append([f"{line['model']}: {line['row']}", line["format"], f"{line['kept_ratio']:.3f}", *scores])
    return table(["", "format", "parameters kept", *SCORES], rows)
