"""What loads where: every kind of result, asked of the code that answers `serve-check`; what engines measured."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from neuromeld.checkpoint.export.engines import verdicts
from result_tables.markdown import table, words
from unit.checkpoint.export.models import build, ragged, ragged_heads, shared

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "engines.jsonl"

SPEEDS = ("prefill_tokens_per_second", "decode_tokens_per_second", "decode_tokens_per_second_of_16")

KINDS: dict[str, Callable[[], PretrainedConfig]] = {
    "stock, of `llama`": lambda: build("llama").config,
    "stock, of `qwen3`": lambda: build("qwen3").config,
    "stock, of `gemma3_text`": lambda: build("gemma3_text").config,
    "stock, layers dropped": lambda: build("llama", num_hidden_layers=3).config,
    "FFN widths by layer, `llama`, `mistral` or `qwen2`": lambda: ragged("llama").config,
    "FFN widths by layer, `qwen3`": lambda: ragged("qwen3").config,
    "FFNs removed, `llama`": lambda: ragged("llama", (96, 0, 8, 72)).config,
    "heads by layer, `llama`": lambda: ragged_heads("llama").config,
    "shared FFNs, `llama`": lambda: shared().config,
}


def engines() -> str:
    """Engines across, kinds of results down; reasons are numbered below."""
    found = {kind: verdicts(make()) for kind, make in KINDS.items()}
    names = [verdict.engine for verdict in next(iter(found.values()))]
    reasons: list[str] = []
    rows = []
    for kind, all_verdicts in found.items():
        cells = []
        for verdict in all_verdicts:
            reasons += [reason for reason in verdict.reasons if reason not in reasons]
            numbers = ", ".join(str(reasons.index(reason) + 1) for reason in verdict.reasons)
            cells.append(verdict.how.replace("after ", "") if verdict.how else f"no ({numbers})")
        rows.append([kind, *cells])
    tried = ["tried with", *(verdict.tried for verdict in next(iter(found.values())))]
    listed = "\n".join(f"{number}. {reason}" for number, reason in enumerate(reasons, start=1))
    return f"{words(['', *names], [tried, *rows])}\n{listed}\n"


def figures() -> str:
    """What each engine computes and how fast; speeds of several runs of `make engines` are not to be compared."""
    rows = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    head = ["", "engine", "largest difference", "mean", "greedy tokens alike", "prefill", "decode", "16 at once", "MB"]
    return table(head, [_row(row) for row in rows])


def _row(row: dict[str, Any]) -> list[str]:
    return [
        f"{row['model']}, {row['parameters'] / 1e6:.1f} M",
        f"{row['engine']} {row['version']}, {row['quantize'] or 'float32'}",
        *(f"{row[key]:.1e}" for key in ("largest_difference", "mean_difference")),
        f"{row['greedy_tokens_alike']} of 64",
        *(f"{row[key]:.1f}" for key in SPEEDS),
        f"{row['peak_rss_bytes'] / 1e6:,.0f}",
    ]
