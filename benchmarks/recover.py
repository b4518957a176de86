"""What training brings back of SmolLM2-135M: `benchmarks/rows/recover.yaml`, a line of results for each row.

    python benchmarks/recover.py --prepare --device cuda        # the smaller models, and the text that the model writes
    for i in 0 1 2 3; do python benchmarks/recover.py --device cuda --part $i/4 & done; wait
    PYTHONPATH=src:tests python -m result_tables                # the table in docs/recovery.md

Smaller models go to `--work`, and with `--keep-trained` those that were trained, too.  A row that is among the results
is not measured again.  Several parts fill a card, which one run of such a small model leaves idle.  Losses are in nats
per token of the evaluation split; excess is over the model as it came, and over that trained alike on the same text
where there is such a row.  With `benchmarks/tasks/data` (`benchmarks/tasks/make.py`), `--tasks` scores its questions.
"""

import argparse
import itertools
import json
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from neuromeld import compress
from neuromeld.benchmark.fit import fitted
from neuromeld.checkpoint.source import locate
from neuromeld.data.calibration import Calibration
from neuromeld.data.text import token_windows
from neuromeld.evaluation import perplexity
from neuromeld.modalities import MODALITIES, with_own_text
from neuromeld.model.passes import chosen_passes, passes_in
from neuromeld.planning import Budget
from neuromeld.planning.plan import meta_model
from neuromeld.planning.recipe import parse_recipe
from neuromeld.recovery import parse_recovery, recover
from tasks.score import DATA, chance_of, scored, tasks_in

UPDATES = {5_000_000: 8192, 500_000: 4096, 0: 2048}
"""Tokens of an update where the grid names none, by those of a training from which on it has so many."""

TASK_BATCH = 16
"""Answers that are scored at once; the longest have 600 tokens, each with the logits of the whole vocabulary."""

KEYS = ("method", "start", "keep", "tokens", "learning_rate", "seed", "train")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--grid", type=Path, default=Path("benchmarks/rows/recover.yaml"))
    arguments.add_argument("--out", type=Path, default=Path("benchmarks/results/recover.jsonl"))
    arguments.add_argument("--work", type=Path, default=Path("recover-work"))
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--part", default="0/1", help="Every n-th row from the i-th, as i/n.")
    arguments.add_argument("--seconds", type=float, default=1e9, help="After which no further row is begun.")
    arguments.add_argument("--rows", default="", help="Only those whose name begins so.")
    arguments.add_argument("--keep-trained", action="store_true")
    arguments.add_argument("--tasks", action="store_true")
    arguments.add_argument("--prepare", action="store_true")
    options = arguments.parse_args()
    grid = yaml.safe_load(options.grid.read_text())
    rows = [row for row in rows_of(grid) if identity(row).startswith(options.rows)]
    if options.prepare:
        prepare(grid, rows, options)
    else:
        first, step = map(int, options.part.split("/"))
        measure_all(grid, rows[first::step], options)


def rows_of(grid: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every combination of every row, with a seed."""
    for row in grid["rows"]:
        lists = [value if isinstance(value, list) else [value] for value in row.values()]
        yield from (grid["row"] | dict(zip(row, values, strict=True)) for values in itertools.product(*lists))


def prepare(grid: dict[str, Any], rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Make what is not there of this part: smaller models, and the text that the model writes, in the cache."""
    first, step = map(int, options.part.split("/"))
    todo = [partial(make_start, grid, start, keep, options) for start, keep in starts_of(rows)]
    todo += [partial(write_text, grid, rows, options)]
    for make in todo[first::step]:
        make()


def starts_of(rows: list[dict[str, Any]]) -> list[tuple[str, float]]:
    return list(dict.fromkeys((row["start"], row["keep"]) for row in rows if row["keep"] != 1))


def make_start(grid: dict[str, Any], start: str, keep: float, options: argparse.Namespace) -> None:
    """Compress the model to this size as this start says."""
    folder = folder_of(options.work, start, keep)
    if not folder.exists():
        asked = grid["starts"][start]
        text = asked.get("calibration_text", "wikipedia-sample")
        calibration = {"source": text, "tokens": asked["calibration_tokens"], "passes": grid["passes"]}
        stages = asked["recipe"] | {"calibration": calibration}
        whole = meta_model(locate(grid["model"]).config())
        as_it_is = asked.get("as_it_is", False)
        recipe = parse_recipe(stages) if as_it_is else fitted(whole, stages, "ffn.size", Budget(keep=keep))
        compress(grid["model"], recipe, folder, device=options.device, evaluate=False)
        print("made", folder, flush=True)


def write_text(grid: dict[str, Any], rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Write what the longest training of each seed needs, the longest of which has what the others read."""
    source = locate(grid["model"])
    reader = with_own_text(MODALITIES["tokens"], source, options.device, progress=True)
    for seed in sorted({row["seed"] for row in rows}):
        tokens = max(row["tokens"] for row in rows if row["seed"] == seed)
        if not tokens:
            continue
        data = Calibration(source=grid["train"], tokens=tokens, seqlen=grid["shared"]["seqlen"], seed=seed)
        written = reader.training(data, source.tokenizer(), source.config()).num_tokens
        print("wrote", seed, tokens, written, flush=True)


def measure_all(grid: dict[str, Any], rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    begun, done = time.monotonic(), {identity(line) for line in lines_in(options.out)}
    for row in rows:
        if identity(row) in done:
            continue
        if time.monotonic() - begun > options.seconds:
            break
        line = json.dumps(row | measured(grid, row, options)) + "\n"
        with options.out.open("a") as file:
            file.write(line)
        print(line, end="", flush=True)


def measured(grid: dict[str, Any], row: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Train the model of a row and measure it on every text."""
    source = grid["model"]
    if row["keep"] != 1:
        make_start(grid, row["start"], row["keep"], options)
        source = str(folder_of(options.work, row["start"], row["keep"]))
    if not row["tokens"]:
        return found_of(grid, source, options)
    out = options.work / f"trained-{identity(row)}"
    settings = grid["shared"] | {"train": row.get("train", grid["train"]), "tokens": row["tokens"], "seed": row["seed"]}
    settings |= {"learning_rate": row["learning_rate"]} | grid["methods"][row["method"]]
    settings.setdefault("batch_tokens", next(size for least, size in UPDATES.items() if row["tokens"] >= least))
    if settings.pop("follows", False):
        settings |= {"original": grid["model"], "distill_weight": 1.0}
    try:
        record = recover(source, parse_recovery(settings), out, device=options.device, force=True).record["recovery"]
        names = ("seconds", "tokens_per_second", "best_step", "looks", "bf16", "held_out")
        return found_of(grid, str(out), options) | {name: record[name] for name in names}
    finally:
        if not options.keep_trained:
            shutil.rmtree(out, ignore_errors=True)


def found_of(grid: dict[str, Any], source: str, options: argparse.Namespace) -> dict[str, Any]:
    """Losses of a model, its size and its answers to the questions."""
    located = locate(source)
    model, tokenizer = located.load(torch.float32, options.device), located.tokenizer()
    found: dict[str, Any] = {"losses": losses(grid, model, tokenizer), "device": options.device}
    found["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    if options.tasks:
        tasks = tasks_in(DATA)
        with passes_in(chosen_passes(grid.get("passes_of_tasks", "own"), model), model):
            scores = {name: scored(model, tokenizer, asked, TASK_BATCH) for name, asked in tasks.items()}
        found["correct"] = {name: "".join(str(int(x)) for x in score.correct) for name, score in scores.items()}
        found["chance"] = chance_of(tasks)
    return found


def losses(grid: dict[str, Any], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, float]:
    """Nats per token on the evaluation split of each text."""
    found = {}
    for text in grid["texts"]:
        sizes = {"num_tokens": grid["evaluation_tokens"], "seqlen": grid["shared"]["seqlen"]}
        found[text] = perplexity(model, token_windows(text, tokenizer, split="evaluation", **sizes)).nll
    return found


def folder_of(work: Path, start: str, keep: float) -> Path:
    return work / f"{start}-{keep:g}".replace(" ", "_").replace(",", "")


def identity(row: dict[str, Any]) -> str:
    return "-".join(str(row.get(key)).replace(" ", "_").replace(",", "") for key in KEYS)


def lines_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":
    main()
