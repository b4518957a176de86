"""Why llama.cpp's greedy text of a q8_0 file parts early: what it rounds, done in transformers.

    python benchmarks/q8_0.py [--out FILE]

llama.cpp rounds both sides of every product to blocks of 32 numbers in 8 bits with one scale: the weights, and what
they are multiplied with.  Each is done alone and together to SmolLM2 in float32, on the text of `engines.py`, and
compared with the model as it is.  One line of JSON for each, with the gaps between the two likeliest tokens that the
greedy text passes.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from engine_runner import GREEDY, PROMPT, READ
from engines import SOURCE, greedy
from neuromeld.checkpoint.export.running import by_transformers
from neuromeld.checkpoint.source import locate
from neuromeld.data.text import token_windows

BLOCK = 32


def rounded(values: Tensor) -> Tensor:
    """What q8_0 holds of some numbers."""
    blocks = values.reshape(-1, BLOCK)
    scale = blocks.abs().amax(1, keepdim=True) / 127
    found = (blocks / scale.clamp_min(1e-30)).round() * scale.half().float()
    return found.reshape(values.shape)


@torch.no_grad()
def round_weights(model: PreTrainedModel) -> None:
    """Round every matrix, a tied one once."""
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.copy_(rounded(parameter))


def round_inputs(model: PreTrainedModel, of: str = "") -> None:
    """Round what matrices are multiplied with: all, or those whose name ends so."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name.endswith(of):
            module.register_forward_pre_hook(lambda _, given: (rounded(given[0]),))


def round_both(model: PreTrainedModel) -> None:
    """Round as llama.cpp does."""
    round_weights(model)
    round_inputs(model)


WAYS: dict[str, Callable[[PreTrainedModel], None]] = {
    "weights": round_weights,
    "inputs": round_inputs,
    "inputs of the head": lambda model: round_inputs(model, "lm_head"),
    "weights and inputs": round_both,
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, default=Path("benchmarks/results/q8_0.jsonl"))
    source = locate(SOURCE)
    windows = token_windows("wikipedia-sample", source.tokenizer(), split="evaluation", num_tokens=READ, seqlen=READ)
    ids = windows.input_ids[0].tolist()
    model = source.load(torch.float32, "cpu")
    expected, written = by_transformers(model, ids), greedy(model, ids[:PROMPT])
    passed = gaps(model, ids[:PROMPT], written)
    rows = []
    for name, change in WAYS.items():
        model = source.load(torch.float32, "cpu")
        change(model)
        rows.append({"rounded": name} | compared(model, ids, expected, written) | {"gaps": passed})
    arguments.parse_args().out.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


@torch.no_grad()
def gaps(model: PreTrainedModel, prompt: list[int], written: list[int]) -> list[float]:
    """How much likelier each token that was written is than the next likeliest, in nats."""
    logits = model(input_ids=torch.tensor([prompt + written]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    first, second = logits.topk(2).values.unbind(1)
    return [round(float(gap), 3) for gap in first - second]


def compared(model: PreTrainedModel, ids: list[int], expected: list[float], written: list[int]) -> dict[str, Any]:
    """How far a model is from the one whose log-probabilities and greedy tokens are given."""
    found = by_transformers(model, ids)
    moved = [abs(a - b) for a, b in zip(found, expected, strict=True)]
    pairs = enumerate(zip(greedy(model, ids[:PROMPT]), written, strict=True))
    return {
        "largest_difference": max(moved),
        "mean_difference": mean(moved),
        "nats_per_token_more": mean(expected) - mean(found),
        "greedy_tokens_alike": next((number for number, pair in pairs if pair[0] != pair[1]), GREEDY),
    }


if __name__ == "__main__":
    main()
