"""Score models on the questions of `benchmarks/tasks/data`, also where lm-evaluation-harness cannot be had.

    python benchmarks/tasks/score.py DENSE SMALLER ... [--device cuda] [--passes auto] [--out tasks.jsonl]

The choice with the largest sum of log-probabilities behind its context is taken, as by the YAML in this folder.  A line
of JSON a model: accuracy by task, chance, what it keeps of the first model with a bootstrap interval, over all tasks
and over those on which the first model is above chance by four standard errors, and of what is above chance there.
"""

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from neuromeld.checkpoint.source import locate
from neuromeld.evaluation import TaskScore, retained_performance
from neuromeld.evaluation.mode import eval_mode
from neuromeld.model.passes import chosen_passes, passes_in
from neuromeld.model.predictions import measure_in_chunks, nll, predictions

DATA = Path(__file__).parent / "data"
ABOVE = 4
"""Standard errors above chance that count."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("models", nargs="+")
    arguments.add_argument("--data", type=Path, default=DATA)
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--passes", default="own", choices=["own", "auto", "bfloat16"])
    arguments.add_argument("--limit", type=int)
    arguments.add_argument("--batch-size", type=int, default=64)
    arguments.add_argument("--out", type=Path, default=Path("tasks.jsonl"))
    options = arguments.parse_args()
    tasks = {name: asked[: options.limit] for name, asked in tasks_in(options.data).items()}
    reference: dict[str, TaskScore] = {}
    for name in options.models:
        source = locate(name)
        model, tokenizer = source.load(torch.float32, options.device), source.tokenizer()
        with passes_in(chosen_passes(options.passes, model), model):
            scores = {task: scored(model, tokenizer, asked, options.batch_size) for task, asked in tasks.items()}
        reference = reference or scores
        line = {"model": name, **told(tasks, reference, scores)}
        with options.out.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps({key: value for key, value in line.items() if key != "correct"}), flush=True)


def tasks_in(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The questions of each task."""
    paths = sorted(folder.glob("*.jsonl"))
    return {path.stem: [json.loads(line) for line in path.read_text().splitlines()] for path in paths}


def scored(model: PreTrainedModel, tokenizer: Any, asked: list[dict[str, Any]], size: int) -> TaskScore:
    """Whether the likeliest choice of each question is right."""
    pairs = [encoded(tokenizer, one["context"], choice) for one in asked for choice in one["choices"]]
    order = sorted(range(len(pairs)), key=lambda number: len(pairs[number][0]))
    sums = [0.0] * len(pairs)
    for first in range(0, len(order), size):
        here = order[first : first + size]
        for number, value in zip(here, log_likelihoods(model, [pairs[number] for number in here]), strict=True):
            sums[number] = value
    correct, place = [], 0
    for one in asked:
        found = sums[place : place + len(one["choices"])]
        correct.append(float(found.index(max(found)) == one["gold"]))
        place += len(one["choices"])
    return TaskScore(sum(correct) / len(correct), tuple(correct), {})


def encoded(tokenizer: Any, context: str, choice: str) -> tuple[list[int], int]:
    """The tokens of both, behind the start token where there is no context, and how many are the context's."""
    whole = tokenizer(context + choice, add_special_tokens=False)["input_ids"]
    if not context:
        start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        return [start, *whole], 1
    return whole, len(tokenizer(context, add_special_tokens=False)["input_ids"])


@torch.no_grad()
def log_likelihoods(model: PreTrainedModel, pairs: list[tuple[list[int], int]]) -> list[float]:
    """The sum over the tokens of each choice, in nats; the head reads no others."""
    longest = max(len(ids) for ids, _ in pairs)
    ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in pairs], device=model.device)
    mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in pairs], device=model.device)
    asked = torch.tensor([place >= start for ids, start in pairs for place in range(1, len(ids))], device=model.device)
    with eval_mode(model):
        found = predictions(model, {"input_ids": ids, "attention_mask": mask})
        choices = replace(found, hidden_nd=found.hidden_nd[asked], targets_n=found.targets_n[asked])
        logs = -measure_in_chunks(nll, choices).double()
    return [float(part.sum()) for part in logs.split([len(ids) - start for ids, start in pairs])]


def chance_of(tasks: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """The share of each task that guessing gets right."""
    return {task: sum(1 / len(one["choices"]) for one in asked) / len(asked) for task, asked in tasks.items()}


def told(
    tasks: dict[str, list[dict[str, Any]]], reference: dict[str, TaskScore], scores: dict[str, TaskScore]
) -> dict[str, Any]:
    """What a line says of a model."""
    chance = chance_of(tasks)
    able = [
        task
        for task, score in reference.items()
        if score.accuracy - chance[task] > ABOVE * math.sqrt(chance[task] * (1 - chance[task]) / len(score.correct))
    ]
    found: dict[str, Any] = {"accuracy": {task: score.accuracy for task, score in scores.items()}, "chance": chance}
    found |= {"able": able, "questions": {task: len(asked) for task, asked in tasks.items()}}
    for what, names in (("retained_of_all", list(tasks)), ("retained", able)):
        parts = [{task: one[task] for task in names} for one in (reference, scores)]
        kept = retained_performance(*parts) if names else None
        found[what] = None if kept is None else vars(kept)
    above = [sum(one[task].accuracy - chance[task] for task in able) for one in (scores, reference)]
    found["retained_above_chance"] = above[0] / above[1] if able else None
    return found | {"correct": {task: "".join(str(int(x)) for x in score.correct) for task, score in scores.items()}}


if __name__ == "__main__":
    main()
