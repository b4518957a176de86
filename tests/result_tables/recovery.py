"""What training brings back, and what is lost before it: by `recover.jsonl`, `laptop.jsonl` and `starts.jsonl`."""

import json
import math
from itertools import groupby
from pathlib import Path
from typing import Any

from neuromeld.evaluation import TaskScore, retained_performance
from result_tables.markdown import words

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"

ABOVE = 4
"""Standard errors above chance, by which the dense model has to answer a task for it to count."""

SETTINGS = ("method", "tokens", "learning_rate", "train")

HEAD = ("kept", "made by", "training", "tokens", "rate", "Wikipedia", "news", "Python docs", "tasks kept (95 %)")


STARTS_HEAD = ("kept", "learned", "format", "parameters", "Wikipedia", "news", "Python docs")


def recovered() -> str:
    """Excess losses over the dense model as it came, and of the answers it has right, the share that is kept."""
    return _rows_of(_lines("recover.jsonl"), _dense("recover.jsonl"))


def laptop() -> str:
    """The same on a processor, of the starts that are trained, too; the dense model's answers are a card's."""
    answers = {name: _dense("recover.jsonl")[name] for name in ("correct", "chance")}
    lines = _lines("laptop.jsonl")
    trained = {(line["start"], line["keep"]) for line in lines if line["tokens"]}
    trained -= {(line["start"], line["keep"]) for line in lines if not line["tokens"]}
    lines += [line for line in _lines("starts.jsonl") if (line["start"], line["keep"]) in trained]
    return _rows_of(lines, _dense("starts.jsonl") | answers)


def starts() -> str:
    """Excess losses over the dense model of what was made smaller by learning what to keep."""
    lines, dense = _lines("starts.jsonl"), _dense("starts.jsonl")
    lines.sort(key=lambda line: (-line["keep"], "by layer" not in line["start"], line["start"]))
    return words(STARTS_HEAD, [_start(line, dense) for line in lines if line != dense])


def _start(line: dict[str, Any], dense: dict[str, Any]) -> list[str]:
    form = "native" if "by layer" in line["start"] else "stock"
    parameters = f"{line['parameters'] / dense['parameters']:.3f}"
    return [f"{line['keep']:g}", line["start"], form, parameters, *_excess(line, dense)]


def _rows_of(lines: list[dict[str, Any]], dense: dict[str, Any]) -> str:
    """Rows whose seeds alone differ are one, from the least to the most."""
    lines.sort(
        key=lambda line: (-line["keep"], line["start"], line["tokens"], -line.get("learning_rate", 0), line["method"])
    )
    alike = groupby(lines, key=lambda line: [line.get(key) for key in ("start", "keep", *SETTINGS)])
    return words(HEAD, [_row(list(seeds), dense) for _, seeds in alike])


def _lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (RESULTS / name).read_text(encoding="utf-8").splitlines()]


def _dense(name: str) -> dict[str, Any]:
    """The line of the dense model as it came."""
    return next(line for line in _lines(name) if line["keep"] == 1 and not line["tokens"])


def _excess(line: dict[str, Any], dense: dict[str, Any]) -> list[str]:
    return [f"{loss - dense['losses'][text]:.3f}" for text, loss in line["losses"].items()]


def _row(seeds: list[dict[str, Any]], dense: dict[str, Any]) -> list[str]:
    line = next((line for line in seeds if "correct" in line), seeds[0])
    method = line["method"] if line["tokens"] else "none"
    method += ", none better than before" if line["tokens"] and line["best_step"] == 0 else ""
    method += f", {len(seeds)} seeds" if len(seeds) > 1 else ""
    tokens = f"{line['tokens']:,}" if line["tokens"] else ""
    rate = f"{line['learning_rate']:g}" if line["tokens"] else ""
    found = zip(*(_excess(one, dense) for one in seeds), strict=True)
    excess = [" to ".join(dict.fromkeys((min(text, key=float), max(text, key=float)))) for text in found]
    return [f"{line['keep']:g}", line["start"], method, tokens, rate, *excess, _tasks(line, dense)]


def _tasks(line: dict[str, Any], dense: dict[str, Any]) -> str:
    if "correct" not in line or line == dense:
        return ""
    before, after = ({task: _score(right) for task, right in one["correct"].items()} for one in (dense, line))
    able = [task for task in before if _is_able(before[task], dense["chance"][task])]
    kept = retained_performance({task: before[task] for task in able}, {task: after[task] for task in able})
    assert kept is not None
    return f"{kept.ratio:.1%} ({kept.low:.1%} to {kept.high:.1%})"


def _score(right: str) -> TaskScore:
    digits = tuple(map(float, right))
    return TaskScore(sum(digits) / len(digits), digits, {})


def _is_able(score: TaskScore, chance: float) -> bool:
    return score.accuracy - chance > ABOVE * math.sqrt(chance * (1 - chance) / len(score.correct))
