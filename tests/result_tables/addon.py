"""What transport adds to each criterion for neurons, with and without the refit."""

from math import log
from pathlib import Path
from statistics import mean

from neuromeld.benchmark import Line, Results
from neuromeld.benchmark.grid import DENSE
from result_tables.markdown import table

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "addon.jsonl"

WITH = {"alone": "", "transport": ", transport", "ridge": ", ridge", "transport, ridge": ", transport, ridge"}
TEXTS = {"wikipedia-sample": "Wikipedia", "news-sample": "news"}


def addon() -> str:
    """Excess loss of each criterion on both texts, means over seeds."""
    lines = Results(RESULTS).lines
    criteria = dict.fromkeys(line.row for line in lines if line.row != DENSE and "," not in line.row)
    rows = [
        [f"`{name.replace(' ', '_')}`", *(_cell(lines, name + more) for more in WITH.values())] for name in criteria
    ]
    return table(["excess loss, nats: Wikipedia / news", *WITH], rows)


def _cell(lines: list[Line], row: str) -> str:
    dense = next(_losses(line) for line in lines if line.row == DENSE)
    found = [_losses(line) for line in lines if line.row == row]
    return " / ".join(f"{mean(one[text] - dense[text] for one in found):.3f}" for text in TEXTS)


def _losses(line: Line) -> dict[str, float]:
    found = {line.data: line.scores, **(line.by_text or {})}
    return {text: log(scores["perplexity"]) for text, scores in found.items()}
