"""What training brings back of SmolLM2-135M: `benchmarks/rows/recover.yaml`, a line of results for each row.

    python benchmarks/recover.py --prepare --device cuda        # the smaller models, and the text that the model writes
    for i in 0 1 2 3 4 5; do python benchmarks/recover.py --device cuda --part $i/6 & done; wait
    python benchmarks/recover.py --table

Smaller models go to `--work`.  A row that is among the results is not measured again.  Several parts fill a card, which
one run of such a small model leaves idle.  Losses are in nats per token of the evaluation split; excess is over the
model as it came, and over that trained alike on the same text where there is such a row.
"""

import argparse
import itertools
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from neuromeld import compress
from neuromeld.benchmark.fit import fitted
from neuromeld.checkpoint.source import locate
from neuromeld.data.calibration import Calibration
from neuromeld.data.text import token_windows
from neuromeld.evaluation import perplexity
from neuromeld.modalities import MODALITIES, with_own_text
from neuromeld.planning import Budget
from neuromeld.planning.plan import meta_model
from neuromeld.recovery import parse_recovery, recover

SMALL_UPDATE, LARGE_UPDATE, MANY = 2048, 4096, 500_000
"""Tokens of an update, and of a training from which on updates are large."""

KEYS = ("method", "keep", "tokens", "learning_rate", "seed")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--grid", type=Path, default=Path("benchmarks/rows/recover.yaml"))
    arguments.add_argument("--out", type=Path, default=Path("benchmarks/results/recover.jsonl"))
    arguments.add_argument("--work", type=Path, default=Path("recover-work"))
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--part", default="0/1", help="Every n-th row from the i-th, as i/n.")
    arguments.add_argument("--seconds", type=float, default=1e9, help="After which no further row is begun.")
    arguments.add_argument("--prepare", action="store_true")
    arguments.add_argument("--table", action="store_true")
    options = arguments.parse_args()
    grid = yaml.safe_load(options.grid.read_text())
    rows = list(rows_of(grid))
    if options.table:
        print(table(grid, lines_in(options.out)))
    elif options.prepare:
        prepare(grid, rows, options)
    else:
        first, step = map(int, options.part.split("/"))
        measure_all(grid, rows[first::step], options)


def rows_of(grid: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every combination of every row, with a seed."""
    for row in grid["rows"]:
        lists = [value if isinstance(value, list) else [value] for value in row.values()]
        yield from ({"seed": 0} | dict(zip(row, values, strict=True)) for values in itertools.product(*lists))


def prepare(grid: dict[str, Any], rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Make what is not there: smaller models, and text that the model writes, in the cache."""
    source = locate(grid["model"])
    calibration = {"tokens": grid["calibration_tokens"], "passes": "own"}
    for keep in sorted({row["keep"] for row in rows} - {1}):
        if not folder_of(options.work, keep).exists():
            recipe = fitted(meta_model(source.config()), {"calibration": calibration}, "ffn.size", Budget(keep=keep))
            compress(grid["model"], recipe, folder_of(options.work, keep), device=options.device, evaluate=False)
    reader = with_own_text(MODALITIES["tokens"], source, options.device, progress=True)
    for seed, tokens in sorted({(row["seed"], row["tokens"]) for row in rows if row["tokens"]}):
        data = Calibration(source=grid["train"], tokens=tokens, seqlen=grid["shared"]["seqlen"], seed=seed)
        print(seed, tokens, reader.training(data, source.tokenizer(), source.config()).num_tokens, flush=True)


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
    source = grid["model"] if row["keep"] == 1 else str(folder_of(options.work, row["keep"]))
    if not row["tokens"]:
        return {"losses": losses(grid, source, options.device), "device": options.device}
    out = options.work / f"trained-{identity(row)}"
    settings = grid["shared"] | {"train": grid["train"], "tokens": row["tokens"], "seed": row["seed"]}
    settings |= {"learning_rate": row["learning_rate"]} | grid["methods"][row["method"]]
    settings["batch_tokens"] = LARGE_UPDATE if row["tokens"] >= MANY else SMALL_UPDATE
    if settings.pop("follows", False):
        settings |= {"original": grid["model"], "distill_weight": 1.0}
    try:
        found = recover(source, parse_recovery(settings), out, device=options.device, force=True).record["recovery"]
        told = {name: found[name] for name in ("seconds", "tokens_per_second", "best_step", "looks", "bf16", "device")}
        return {"losses": losses(grid, str(out), options.device), "held_out": found["held_out"], **told}
    finally:
        shutil.rmtree(out, ignore_errors=True)


def losses(grid: dict[str, Any], source: str, device: str) -> dict[str, float]:
    """Nats per token on the evaluation split of each text."""
    located = locate(source)
    model, tokenizer, found = located.load(torch.float32, device), located.tokenizer(), {}
    for text in grid["texts"]:
        sizes = {"num_tokens": grid["evaluation_tokens"], "seqlen": grid["shared"]["seqlen"]}
        windows = token_windows(text, tokenizer, split="evaluation", **sizes)
        found[text] = perplexity(model, windows).nll
    return found


def table(grid: dict[str, Any], lines: list[dict[str, Any]]) -> str:
    """Excess losses of all lines on every text, as Markdown; in brackets over the model as it came, trained alike."""
    by_row = {identity(line): line for line in lines}
    dense = next(line for line in lines if line["keep"] == 1 and not line["tokens"])
    head = ["method", "kept", "tokens", "learning rate", "seed", *grid["texts"], "tokens/s", "best step"]
    found = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for line in sorted(lines, key=lambda line: (line["keep"], line["method"], line["tokens"], line["seed"])):
        alike = by_row.get(identity(line | {"keep": 1}))
        cells = [line["method"], line["keep"], f"{line['tokens']:,}", line.get("learning_rate", ""), line["seed"]]
        for text in grid["texts"]:
            excess = line["losses"][text] - dense["losses"][text]
            over = f" ({line['losses'][text] - alike['losses'][text]:.3f})" if alike and line["tokens"] else ""
            cells.append(f"{excess:.3f}{over}")
        cells += [f"{line.get('tokens_per_second') or 0:.0f}", line.get("best_step", "")]
        found.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(found)


def folder_of(work: Path, keep: float) -> Path:
    return work / f"kept-{keep:g}"


def identity(row: dict[str, Any]) -> str:
    return "-".join(str(row.get(key)).replace(" ", "_") for key in KEYS)


def lines_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":
    main()
