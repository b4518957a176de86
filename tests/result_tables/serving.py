"""What loads where: every kind of result, asked of the code that answers `serve-check`; what engines measured."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from neuromeld.checkpoint.export.engines import verdicts
from result_tables.markdown import table, words
from unit.checkpoint.export.models import build, ragged, ragged_heads, shared, with_own_code

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "engines.jsonl"

SPEEDS = (("prefill", 1), ("prefill", 16), ("decode", 1), ("decode", 16))
"""What is timed, and of how many texts at once."""

FEWER_HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}

KINDS: dict[str, Callable[[], PreTrainedModel]] = {
    **{
        f"stock, of `{family}`": (lambda family=family: build(family))
        for family in ("llama", "qwen3", "gemma3_text", "olmo2", "phi3", "smollm3")
    },
    "stock, layers dropped": lambda: build("llama", num_hidden_layers=3),
    "stock, fewer heads, in every layer as many": lambda: build("llama", **FEWER_HEADS),
    "stock, narrower residual stream": lambda: build("llama", hidden_size=96),
    "FFN widths by layer, `llama`, `mistral` or `qwen2`": lambda: ragged("llama"),
    "FFN widths by layer, `qwen3`": lambda: ragged("qwen3"),
    "FFN widths by layer, layers dropped, `llama`": lambda: ragged("llama", (96, 40, 72), num_hidden_layers=3),
    "FFN widths by layer, fewer heads, `llama`": lambda: ragged("llama", **FEWER_HEADS),
    "FFN widths by layer, narrower stream, `llama`": lambda: ragged("llama", hidden_size=96),
    "FFNs removed, `llama`": lambda: ragged("llama", (96, 0, 8, 72)),
    "heads by layer, `llama`": lambda: ragged_heads("llama"),
    "shared FFNs, `llama`": shared,
    "several bases of the stream, `llama`": lambda: with_own_code("shortcuts"),
    "narrow embedding, `llama`": lambda: with_own_code("narrow_tables"),
}
"""Results of every stage, and of those that go together."""


def engines() -> str:
    """Engines across, kinds of results down; reasons are numbered below."""
    found = {kind: verdicts(make().config) for kind, make in KINDS.items()}
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
    """What each engine computes, beside transformers, and the memory it takes."""
    head = ["", "engine", "largest difference", "mean", "greedy tokens alike", "perplexity", "MB"]
    return table(head, [_figures_of(row) for row in _rows()])


def _figures_of(row: dict[str, Any]) -> list[str]:
    more = math.expm1(row["nats_per_token"] - row["nats_per_token_of_transformers"])
    return [
        f"{row['model']}, {row['parameters'] / 1e6:.1f} M",
        _engine(row),
        *(f"{row[key]:.1e}" for key in ("largest_difference", "mean_difference")),
        f"{row['greedy_tokens_alike']} of 64",
        f"{100 * more:+.2f} %",
        f"{row['peak_rss_bytes'] / 1e6:,.0f}",
    ]


def speeds() -> str:
    """How fast each engine is: tokens per second of the dense model, of others as multiples of it in the same turns."""
    found = _rows()
    dense = {_engine(row): row for row in found if row["model"] == "dense"}
    head = ["", "operations allow", "bytes allow", *(f"{what}, {texts}" for what, texts in SPEEDS)]
    rows = []
    for engine, first in dense.items():
        absolute = [f"{first['speeds'][f'{what}_{texts}']:,.1f} a second" for what, texts in SPEEDS]
        rows.append([f"{engine}: dense", "1", "1", *absolute])
        for row in found:
            if _engine(row) == engine and row is not first:
                allowed = (first[key] / row[key] for key in ("flops_per_token", "bytes_per_token"))
                measured = (row["over_dense"][f"{what}_{texts}"] for what, texts in SPEEDS)
                rows.append([f"{engine}: {row['model']}", *(f"{value:.2f}" for value in (*allowed, *measured))])
    return table(head, rows)


def _engine(row: dict[str, Any]) -> str:
    return f"{row['engine']} {row['version']}, {row['quantize'] or 'float32'}"


def _rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
