"""What was asked of the planner, and what came: a frontier, losses that may be lost, efforts."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from result_tables.markdown import table

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"

FIVE_KINDS = ["Wikipedia", "news", "Python documentation", "LibreOffice's help, German", "Python source", "mean"]


def frontier() -> str:
    """Each share of one frontier: its losses, what it is made of, and what it cost of what the first did."""
    points = json.loads((RESULTS / "frontier.json").read_text(encoding="utf-8"))["models"][0]["points"]
    head = ["made of", "kept", "operations", "Wikipedia, validation", "news", "cost, of the first"]
    return table(head, [_point(point, points[0]["passes"]) for point in points])


def _point(point: dict[str, Any], first: float) -> Sequence[str]:
    return [
        point["candidate"],
        f"{point['keep']:g}",
        f"{point['flops_ratio']:.3f}",
        f"{point['loss']:.3f} ± {point['standard_error']:.3f}",
        f"{point['other_losses']['news-sample']:.3f}",
        f"{point['passes'] / first:.2f}",
    ]


def asked() -> str:
    """Excess losses on evaluation text of what was made for a loss, or with an effort."""
    lines = [json.loads(line) for line in (RESULTS / "asked.jsonl").read_text(encoding="utf-8").splitlines()]
    head = ["", "kept", "operations", "validation", "Wikipedia", "news", "Python documentation"]
    return table(head, [_asked(line) for line in lines])


def _asked(line: dict[str, Any]) -> Sequence[str]:
    validation = line["chosen"]["measured_loss"]
    return [
        f"`{line['asked']}`: {line['chosen']['name']}",
        f"{line['parameters'] / line['parameters_before']:.3f}",
        f"{line['flops_per_token'] / line['flops_per_token_before']:.3f}",
        f"{validation:.3f}",
        *(f"{loss:.3f}" for loss in line["excess"].values()),
    ]


def calibration_texts() -> str:
    """Excess losses by the text that was calibrated on: the mean of two seeds, and what it is with each."""
    return _by_text("calibration.jsonl", "evaluation", ["Wikipedia", "news", "Python documentation", "mean"])


def usual_text() -> str:
    """The same of mixtures that the usual one was chosen from, on validation text."""
    return _by_text("usual_text.jsonl", "validation", FIVE_KINDS)


def usual_text_evaluated() -> str:
    """The same of the two that were compared in the end, on evaluation text."""
    return _by_text("usual_text.jsonl", "evaluation", FIVE_KINDS)


def transport_added() -> str:
    """The same of criteria for neurons, alone, with transport, with the ridge and with both, on evaluation text."""
    return _by_text("addon.jsonl", "evaluation", ("Wikipedia", "news", "mean"))


def transport_added_to_the_stream() -> str:
    """The same of criteria for neurons of the stream, with another decoder, and with what reads it refitted."""
    return _by_text("addon_stream.jsonl", "evaluation", ("Wikipedia", "news", "mean"))


def _by_text(name: str, split: str, kinds: Sequence[str]) -> str:
    lines = [json.loads(line) for line in (RESULTS / name).read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line["split"] == split]
    dense = next(_losses(line) for line in lines if line["row"] == "dense")
    rows: dict[str, list[list[float]]] = {}
    for line in lines:
        if line["row"] != "dense":
            found = _losses(line)
            excess = [found[text] - dense[text] for text in dense]
            rows.setdefault(line["row"], []).append([*excess, sum(excess) / len(excess)])
    return table(
        ["", *kinds],
        [[name, *map(_of_seeds, zip(*seeds, strict=True))] for name, seeds in rows.items()],
    )


def _losses(line: dict[str, Any]) -> dict[str, float]:
    texts = {line["data"]: line["scores"]} | line["by_text"]
    return {text: math.log(scores["perplexity"]) for text, scores in texts.items()}


def _of_seeds(values: Sequence[float]) -> str:
    each = f" ({', '.join(f'{value:.3f}' for value in values)})" if len(values) > 1 else ""
    return f"{sum(values) / len(values):.3f}{each}"
