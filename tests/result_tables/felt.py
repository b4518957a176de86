"""What a reader notices of smaller models, by `benchmarks/results/felt.jsonl`: shares of what the original has."""

import json
from pathlib import Path
from statistics import mean
from typing import Any

from neuromeld.evaluation import TaskScore, retained_performance
from result_tables.markdown import words

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"

HEAD = ("", "likeliest tokens right", "last words right", "of the original's (95 %)", "goes on alike", "tokens alike")


def felt() -> str:
    """Means over the texts; last words also as a share of those that the first model has right."""
    lines = [json.loads(line) for line in (RESULTS / "felt.jsonl").read_text(encoding="utf-8").splitlines()]
    return words(HEAD, [_row(line, lines[0]) for line in lines])


def _row(line: dict[str, Any], original: dict[str, Any]) -> list[str]:
    texts = line["found"].values()
    scores, before = _words(line), _words(original)
    kept = retained_performance(before, scores)
    assert kept is not None
    share = "" if line is original else f"{kept.ratio:.1%} ({kept.low:.1%} to {kept.high:.1%})"
    right = mean(score.accuracy for score in scores.values())
    alike = ["", ""]
    if line is not original:
        alike = [f"{mean(text['agrees'] for text in texts):.1%}", f"{mean(mean(text['until']) for text in texts):.1f}"]
    return [line["model"], f"{mean(text['next_token'] for text in texts):.1%}", f"{right:.1%}", share, *alike]


def _words(line: dict[str, Any]) -> dict[str, TaskScore]:
    found = {text: tuple(map(float, values["last_words"])) for text, values in line["found"].items()}
    return {text: TaskScore(mean(right), right, {}) for text, right in found.items()}
