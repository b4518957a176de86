"""What loads where: every kind of result, asked of the code that answers `serve-check`."""

from collections.abc import Callable

from transformers import PretrainedConfig

from neuromeld.checkpoint.export.engines import verdicts
from result_tables.markdown import words
from unit.checkpoint.export.models import build, ragged, ragged_heads, shared

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
