"""Peak memory of losses and sensitivities over a large vocabulary, with all logits at once and in chunks.

    python benchmarks/vocabulary.py                    262,144 words, 512 to 1,024 tokens

A random Llama of two narrow layers, each measurement in a process of its own; `peak` is what it takes beyond what
was there when model and data were.  `predicted` is what a job is planned with.  One line of JSON goes to `--out`.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from neuromeld.model.predictions import measuring_bytes, nll, predictions, sum_in_chunks
from neuromeld.runtime.memory import peak_rss_bytes

WIDTH = 64


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--vocabulary", type=int, default=262144)
    arguments.add_argument("--tokens", type=int, nargs="+", default=[512, 1024])
    arguments.add_argument("--one", nargs=2, metavar=("HOW", "WHAT"), help="Measure here, and print the bytes.")
    arguments.add_argument("--out", type=Path, default=Path("benchmarks/results/vocabulary.jsonl"))
    options = arguments.parse_args()
    if options.one:
        print(json.dumps(one(*options.one, options.vocabulary, options.tokens[0])))
        return
    for tokens in options.tokens:
        for what in ("loss", "gradient"):
            predicted = measuring_bytes(options.vocabulary, tokens, 4, backward=what == "gradient")
            row = {"vocabulary": options.vocabulary, "tokens": tokens, "what": what, "predicted": predicted}
            for how in ("at once", "chunks"):
                command = [sys.executable, __file__, "--one", how, what, "--tokens", str(tokens)]
                command += ["--vocabulary", str(options.vocabulary)]
                row[how] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            print(json.dumps(row), flush=True)
            options.out.parent.mkdir(parents=True, exist_ok=True)
            with options.out.open("a") as file:
                file.write(json.dumps(row) + "\n")


def one(how: str, what: str, vocabulary: int, tokens: int) -> dict[str, float]:
    """Measure one way in this process."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    sizes = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, tie_word_embeddings=True, **sizes))
    model.requires_grad_(False)
    model.model.layers[0].requires_grad_(True)  # a gradient has to come back through the head, as in sensitivities
    ids = torch.randint(vocabulary, (2, tokens // 2))
    before, started = resident_bytes(), time.process_time()
    with torch.set_grad_enabled(what == "gradient"):
        if how == "chunks":
            loss = sum_in_chunks(nll, predictions(model, {"input_ids": ids}))
        else:
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
            loss = F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="sum")
    if what == "gradient":
        loss.backward()
    return {"peak": peak_rss_bytes() - before, "seconds": time.process_time() - started, "loss": float(loss)}


def resident_bytes() -> int:
    """Return what this process holds now, on Linux."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
