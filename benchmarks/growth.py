"""How time and memory of a compression grow with layers, width and tokens: random Llamas, one process a point.

    OMP_NUM_THREADS=1 python benchmarks/growth.py

One size is doubled at a time, the others stay (4 layers, width 256, 4,096 tokens).  Memory is the peak beyond that of
Python and its libraries, weights included; time is without building the model.  The exponent is the slope between the
logarithms, of all points and of the last two, where constant costs weigh least.  One line of JSON a size and recipe
goes to `--out`, and a drawing beside it: doublings of the cost over doublings of the size.
"""

import argparse
import json
import subprocess
import sys
import time
from itertools import pairwise
from math import log2
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from neuromeld import compress_model, make_plan, parse_recipe
from neuromeld.drawing.charts import Series, lines
from neuromeld.drawing.svg import draw
from neuromeld.runtime.memory import peak_rss_bytes

RECIPES: dict[str, dict[str, Any]] = {
    "FFNs": {"ffn": {"ratio": 0.66}},
    "residual stream": {"width": {"hidden_ratio": 0.8, "selector": "principal"}},
    "residual stream, refit": {"width": {"hidden_ratio": 0.8, "selector": "principal", "refit": True}},
    "residual stream, transport": {
        "width": {"hidden_ratio": 0.8, "selector": "mean_abs_activation", "merge": "transport"}
    },
}
BASE = {"layers": 4, "width": 256, "tokens": 4096}
SIZES = {"layers": [4, 8, 16, 32], "width": [128, 256, 512, 1024], "tokens": [4096, 8192, 16384, 32768]}
SEQLEN = 256


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--recipes", nargs="+", default=list(RECIPES))
    arguments.add_argument("--out", type=Path, default=Path("benchmarks/results/growth.jsonl"))
    arguments.add_argument("--point", type=json.loads, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.point:
        print(json.dumps(measure(**options.point)))
        return
    rows = [growth(size, recipe) for size in SIZES for recipe in options.recipes]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options.out.with_suffix(".svg").write_text(drawing(rows))


def growth(size: str, recipe: str) -> dict[str, Any]:
    """The costs of a recipe while one size is doubled."""
    points = []
    for value in SIZES[size]:
        asked = json.dumps({"recipe": recipe, **BASE, size: value})
        done = subprocess.run([sys.executable, __file__, "--point", asked], check=True, stdout=subprocess.PIPE)
        points.append(json.loads(done.stdout))
    row: dict[str, Any] = {"size": size, "values": SIZES[size], "recipe": recipe, "base": BASE}
    for cost in ("seconds", "bytes"):
        values = [point[cost] for point in points]
        row[cost] = values
        row[f"exponent of {cost}"] = float(np.polyfit(np.log2(SIZES[size]), np.log2(values), 1)[0])
        row[f"last exponent of {cost}"] = [log2(b / a) for a, b in pairwise(values)][-1]
    print(json.dumps(row), flush=True)
    return row


def measure(recipe: str, layers: int, width: int, tokens: int) -> dict[str, float]:
    """Seconds and bytes of one compression in this process."""
    before = peak_rss_bytes()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=width,
        intermediate_size=8 * width // 3 // 8 * 8,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 64,
        max_position_embeddings=SEQLEN,
    )
    model = LlamaForCausalLM(config)
    data = [{"input_ids": ids} for ids in torch.randint(config.vocab_size, (tokens // SEQLEN, SEQLEN)).split(4)]
    calibration = {"tokens": tokens, "seqlen": SEQLEN}
    plan = make_plan(model, parse_recipe(RECIPES[recipe] | {"calibration": calibration}))
    started = time.perf_counter()
    compress_model(model, plan, data)
    return {"seconds": time.perf_counter() - started, "bytes": peak_rss_bytes() - before}


def drawing(rows: list[dict[str, Any]]) -> str:
    """A chart a size and cost: doublings of the cost over doublings of the size."""
    figures = []
    for cost, called in (("seconds", "time"), ("bytes", "memory")):
        for size in SIZES:
            series = [
                Series(row["recipe"], [(i, log2(value / row[cost][0])) for i, value in enumerate(row[cost])])
                for row in rows
                if row["size"] == size
            ]
            figure = lines(f"{called} by {size}", f"doublings of {size}", f"doublings of {called}", series)
            figures += [figure] if figure is not None else []
    return draw(figures)


if __name__ == "__main__":
    main()
