"""Merged sublayers against other ways to the same number of parameters: a table or more for each model.

Several values behind a mean are those of the seeds 0, 1, 2, which draw what is calibrated and tuned on.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from neuromeld.benchmark import Line, Results, excess_loss, recovered_loss
from neuromeld.benchmark.grid import DENSE
from result_tables.markdown import over_seeds, table

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"

Runs = Mapping[str, Sequence[dict[str, Any]]]
"""Lines of results by row, in the order of seeds."""


KINDS = {
    "dense": ("dense", "dense", "dense", "dense"),
    "merged: strongest units, ridge": (
        "5 FFNs merged, permuted, strongest, ridge",
        "4 FFNs merged: permute, strongest, ridge",
        "merge 2: permute, strongest, ridge",
        "merge 2: permute, strongest, ridge",
    ),
    "merged: averages (the paper's)": (
        "5 FFNs merged, permuted",
        "4 FFNs merged: permute",
        "merge 2: permute",
        "merge 2: permute",
    ),
    "merged: averages as numbered": (
        "5 FFNs merged, as numbered",
        "4 FFNs merged: vanilla",
        "merge 2: vanilla",
        "merge 2: vanilla",
    ),
    "FFNs deleted": ("4 FFNs deleted", "3 FFNs deleted", "delete 1 FFN", "delete 1 FFN"),
    "layers dropped": ("3 layers dropped", "2 layers dropped", "", ""),
    "every FFN narrowed, ridge": (
        "every FFN narrowed, ridge",
        "every FFN narrowed to 3/4, ridge",
        "narrow to 768: ridge",
        "narrow to 1152: ridge",
    ),
}
"""What is compared, and the rows of SmolLM2, DINOv2, ruaccent and Whisper that keep the same number of parameters."""


def after_tuning() -> str:
    """One number for each model and kind of row, the mean over seeds."""
    language = _recovered(0.9)
    images, marks, speech = _lines("vision"), *(_runs(f"{name}.jsonl") for name in ("ruaccent", "speech"))

    def cells(kind: str) -> list[str]:
        text, image, mark, spoken = KINDS[kind]
        found = (
            (_losses_after(language.get(text, [])), "{:.3f}"),
            ([line.recovered.scores["accuracy"] for line in images.get(image, []) if line.recovered], "{:.3f}"),
            ([run["same_sentences"] for run in marks.get(mark, [])], "{:.1%}"),
            ([run["prompts"]["word_error_rate"] for run in speech.get(spoken, []) if run.get("steps")], "{:.1%}"),
        )
        return [kind, *(form.format(mean(values)) if values else "" for values, form in found)]

    titles = ("SmolLM2, excess loss", "DINOv2, accuracy", "ruaccent, sentences kept", "Whisper, word errors")
    return table(["after the same tuning", *titles], map(cells, KINDS))


def smollm2_window() -> str:
    """FFNs of one window, before tuning."""
    results = Results(RESULTS / "sublayers.jsonl")
    dense = results.lines[0]
    rows = [
        [line.row, f"{line.parameters:,}", f"{line.scores['perplexity']:.2f}", f"{excess_loss(line, dense):.3f}"]
        for line in sorted(results.lines, key=lambda line: line.scores["perplexity"])
    ]
    return table(["", "parameters", "perplexity", "excess loss, nats"], rows)


def smollm2_five() -> str:
    """Rows of 0.92 of the parameters, before and after the same tuning."""
    return _before_and_after(at_least=0.9)


def smollm2_ten() -> str:
    """Rows of 0.82 of the parameters."""
    return _before_and_after(at_least=0.8)


def dinov2() -> str:
    """Accuracy on FashionMNIST."""
    runs = _lines("vision")
    (dense, *_) = runs[DENSE]
    tuned = {line.seed: line.recovered.scores["accuracy"] for line in runs[DENSE] if line.recovered}

    def cells(row: str) -> list[str]:
        before = [line.scores["accuracy"] for line in runs[row] if line.scores]
        after = {line.seed: line.recovered.scores["accuracy"] for line in runs[row] if line.recovered}
        of_tuned = {seed: accuracy / tuned[seed] for seed, accuracy in after.items() if row != DENSE}
        return [
            row,
            _layers(runs[row][0].recipe or {}),
            f"{runs[row][0].parameters / dense.parameters:.3f}",
            over_seeds(before),
            over_seeds(list(after.values())),
            over_seeds([accuracy / dense.scores["accuracy"] for accuracy in after.values()]),
            over_seeds(list(of_tuned.values())),
        ]

    head = ["", "layers", "parameters kept", "top-1 before tuning", "after", "after, of dense", "after, of dense tuned"]
    return table(head, sorted(map(cells, runs), key=lambda row: (-round(float(row[2]), 2), row[0])))


def _layers(recipe: Mapping[str, Any]) -> str:
    """First and last of the layers that a recipe merges or removes."""
    for stage, option in (("share_ffns", "window"), ("remove_ffns", "layers"), ("drop_layers", "layers")):
        if stage in recipe:
            return f"{recipe[stage][option][0]}-{recipe[stage][option][-1]}"
    return ""


def _lines(name: str) -> Mapping[str, Sequence[Line]]:
    """The lines of a grid by row, in the order of seeds."""
    lines = sorted(Results(RESULTS / f"{name}.jsonl").lines, key=lambda line: line.seed)
    return {row: [line for line in lines if line.row == row] for row in dict.fromkeys(line.row for line in lines)}


def whisper() -> str:
    """Word error rates and losses on two kinds of speech."""
    runs = _runs("speech.jsonl")

    def cells(row: str) -> list[str]:
        measured = [
            over_seeds([run[speech][value] for run in runs[row] if bool(run.get("steps")) == tuned], form)
            for value, speech, form in (
                ("word_error_rate", "prompts", "{:.1%}"),
                ("word_error_rate", "librivox", "{:.1%}"),
                ("loss", "prompts", "{:.3f}"),
            )
            for tuned in (False, True)
        ]
        return [row, _kept(runs, row), *measured]

    titles = ("errors, prompts", "errors, LibriVox", "loss, prompts")
    head = ["", "parameters kept", *(title for name in titles for title in (name, "after tuning"))]
    return table(head, [cells(row) for row in _largest_first(runs, runs)])


def ruaccent() -> str:
    """Agreement with what the uncompressed model writes."""
    runs = _runs("ruaccent.jsonl")

    def cells(row: str) -> list[str]:
        measured = [
            over_seeds([run[value] for run in tried], form)
            for value, form in (("same_sentences", "{:.1%}"), ("chrf", "{:.1f}"))
            for tried in ([run["untuned"] for run in runs[row]], runs[row])
        ]
        return [row, _kept(runs, row), *measured]

    head = ["", "parameters kept", "same sentences before tuning", "after", "chrF before tuning", "after"]
    return table(head, [cells(row) for row in _largest_first(runs, runs)])


def _runs(name: str) -> Runs:
    lines = [json.loads(line) for line in (RESULTS / name).read_text(encoding="utf-8").splitlines()]
    lines.sort(key=lambda line: line["seed"] if "seed" in line else line["calibration"]["seed"])
    return {row: [line for line in lines if line["row"] == row] for row in dict.fromkeys(line["row"] for line in lines)}


def _kept(runs: Runs, row: str) -> str:
    return f"{runs[row][0]['parameters'] / runs['dense'][0]['parameters']:.3f}"


def _largest_first(runs: Runs, rows: Iterable[str]) -> list[str]:
    """Rows of about the same size stay together, in the order of their names."""
    return sorted(rows, key=lambda row: (-round(float(_kept(runs, row)), 2), row))


def _before_and_after(*, at_least: float) -> str:
    """Of the rows that keep between this and a tenth more, by what they lose after the same tuning."""
    rows = _recovered(at_least)
    after = {row: _losses_after(pairs) for row, pairs in rows.items()}

    def cells(row: str) -> list[str]:
        lines = [line for line, _ in rows[row]]
        tuned = [line.recovered.scores["perplexity"] for line in lines if line.recovered is not None]
        return [
            row,
            f"{lines[0].parameters / rows[DENSE][0][0].parameters:.3f}",
            *(f"{mean(values):.2f}" for values in ([line.scores["perplexity"] for line in lines], tuned)),
            over_seeds([excess_loss(*pair) for pair in rows[row]]),
            over_seeds(after[row]),
        ]

    head = ["", "parameters kept", "perplexity before", "after", "excess loss before, nats", "after, of dense tuned"]
    return table(head, [cells(row) for row in sorted(rows, key=lambda row: mean(after[row]))])


def _recovered(at_least: float) -> Mapping[str, Sequence[tuple[Line, Line]]]:
    """By row, each line and the dense one that it is compared with, in the order of seeds."""
    results = Results(RESULTS / "recovery.jsonl")
    pairs = [
        (line, dense)
        for line in sorted(results.lines, key=lambda line: line.seed)
        if (dense := results.dense(line)) is not None
    ]
    chosen = [pair for pair in pairs if 0 <= pair[0].parameters / pair[1].parameters - at_least < 0.1]
    seeds = {line.seed for line, _ in chosen}
    chosen += [pair for pair in pairs if pair[0].row == DENSE and pair[0].seed in seeds]
    return {row: [pair for pair in chosen if pair[0].row == row] for row in {line.row for line, _ in chosen}}


def _losses_after(pairs: Iterable[tuple[Line, Line]]) -> list[float]:
    return [loss for pair in pairs if (loss := recovered_loss(*pair)) is not None]
