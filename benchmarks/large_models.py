"""Predict what models of 8 B, 70 B and 400 B parameters take: memory, disk and time, on one card and on eight.

    python benchmarks/large_models.py                     from configs, on the meta device: no weights, a few seconds
    python benchmarks/large_models.py --throughput FILE   of another machine (`neuromeld plan --json` prints its own)

Every figure is a prediction of `neuromeld plan`, or of its parts.  One line of JSON a job goes to `--out`, which is
written anew; `make table` makes docs/large-models.md of them.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, PretrainedConfig, Qwen3MoeConfig

from neuromeld import Calibration, parse_recipe
from neuromeld.archs.spec import Space
from neuromeld.errors import UserInputError
from neuromeld.jobs.choosing import FINAL_TOKENS
from neuromeld.planning.choose import FEW_TOKENS
from neuromeld.planning.duration import load_throughput, time_of
from neuromeld.planning.effort import STANDARD, Amounts, work_of_choice
from neuromeld.planning.plan import architecture_of, make_plan, meta_model

LLAMA: dict[str, Any] = {"vocab_size": 128256, "num_key_value_heads": 8, "head_dim": 128, "dtype": "bfloat16"}
MODELS: dict[str, PretrainedConfig] = {
    "Llama, 8 B": LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, **LLAMA
    ),
    "Llama, 70 B": LlamaConfig(
        hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64, **LLAMA
    ),
    "mixture, 400 B": Qwen3MoeConfig(
        vocab_size=151936,
        hidden_size=6144,
        moe_intermediate_size=2560,
        num_experts=128,
        num_experts_per_tok=8,
        num_hidden_layers=64,
        num_attention_heads=96,
        num_key_value_heads=8,
        head_dim=128,
        dtype="bfloat16",
    ),
}
RECIPES: dict[str, dict[str, Any]] = {
    "FFNs to 0.7": {"ffn": {"ratio": 0.7}},
    "a quarter of the heads, FFNs to 0.8": {"heads": {"num_kv_heads": 6}, "ffn": {"ratio": 0.8}},
    "residual stream to 0.8": {"width": {"hidden_ratio": 0.8}},
}
CHOICE = "choosing for --keep 0.8"
CALIBRATION = Calibration(tokens=131072, seqlen=512)
CARD, RANKS = 76_000_000_000, (1, 8)
"""Bytes of a card that a job may take; numbers of cards."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--throughput", default="h100")
    arguments.add_argument("--out", type=Path, default=Path("benchmarks/results/large_models.jsonl"))
    options = arguments.parse_args()
    throughput = load_throughput(options.throughput)
    rows = []
    for name, config in MODELS.items():
        model = meta_model(config)
        arch = architecture_of(model)
        told = {"model": name, "parameters": sum(parameter.numel() for parameter in model.parameters())}
        amounts = Amounts(max(FEW_TOKENS, arch.widths[Space.FFN]), CALIBRATION.tokens, FINAL_TOKENS)
        choice = work_of_choice(STANDARD, model, arch, CALIBRATION, amounts)
        rows.append(told | {"job": CHOICE} | _times(choice, throughput))
        for job, stages in RECIPES.items():
            recipe = parse_recipe(stages | {"calibration": CALIBRATION.model_dump()})
            plan = make_plan(model, recipe, dtype=torch.bfloat16, device_memory=CARD, arch=arch)
            found = {"kept_ratio": plan.kept_ratio, "peak_bytes": plan.peak_bytes, "disk_bytes": plan.disk_bytes}
            found |= {"device_bytes": plan.on_device and plan.on_device.peak_bytes}
            try:
                mapped = make_plan(model, recipe, dtype=torch.bfloat16, max_memory=CARD, device_memory=CARD, arch=arch)
                found |= {"mapped_bytes": mapped.peak_bytes}
            except UserInputError as error:
                found |= {"mapped_bytes": None, "refused": str(error)}
            rows.append(told | {"job": job} | found | _times(plan.work, throughput))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _times(work: Any, throughput: Any) -> dict[str, Any]:
    """Return the seconds of each part, by the number of cards, and plain passes."""
    found = {str(ranks): time_of(work, throughput, ranks) for ranks in RANKS}
    seconds = {ranks: asdict(one) | {"seconds": one.seconds} for ranks, one in found.items()}
    return {"plain_passes": work.passes, "throughput": throughput.model_dump(), "time": seconds}


if __name__ == "__main__":
    main()
