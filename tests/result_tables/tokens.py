"""Fewer tokens, and narrower ones, in bits per byte of each text: rows of a grid beside the model as it came."""

from collections.abc import Sequence
from pathlib import Path

from neuromeld.benchmark import Line, Results
from neuromeld.benchmark.grid import DENSE
from result_tables.markdown import table

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"

TEXTS = {
    "wikipedia-sample": "Wikipedia",
    "python-docs": "Python documentation",
    "news-sample": "news",
    "libreoffice-help-de": "German help pages",
}


def fewer() -> str:
    """SmolLM2 with the tokens that Wikipedia uses most, and with narrower embeddings and FFNs."""
    return _table("tokens")


def mostly_vocabulary() -> str:
    """A model that is mostly vocabulary, at a budget, with and without the stages for that."""
    return _table("large_vocabulary")


def _table(grid: str) -> str:
    """The rows of a grid below the dense model."""
    lines = Results(RESULTS / f"{grid}.jsonl").lines
    dense, texts = lines[0], [text for text in TEXTS if text in _by_text(lines[0])]
    head = ["", "parameters", "operations", *(TEXTS[text] for text in texts)]
    return table(head, [_row(line, dense, texts) for line in lines])


def _row(line: Line, dense: Line, texts: Sequence[str]) -> list[str]:
    assert line.flops_per_token is not None
    assert dense.flops_per_token is not None
    before, after = _by_text(dense), _by_text(line)
    more = "" if line.row == DENSE else " ({:+.3f})"
    return [
        line.row,
        f"{line.parameters / dense.parameters:.3f}",
        f"{line.flops_per_token / dense.flops_per_token:.3f}",
        *(f"{after[text]:.3f}" + more.format(after[text] - before[text]) for text in texts),
    ]


def _by_text(line: Line) -> dict[str, float]:
    found = {line.data: line.scores, **(line.by_text or {})}
    return {text: scores["bits_per_byte"] for text, scores in found.items()}
