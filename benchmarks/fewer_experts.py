"""A tiny Qwen3-MoE, trained on real text, and which way to leave fewer experts loses least on validation text.

    OMP_NUM_THREADS=1 python benchmarks/fewer_experts.py            # trains the model, some minutes of one core
    OMP_NUM_THREADS=1 python benchmarks/fewer_experts.py --choose   # validation losses of selectors, merges and refits
    neuromeld benchmark benchmarks/fewer_experts.yaml               # perplexities on evaluation text

No real mixture comes inside a package, so this one stands for them: 16 experts in each of 4 layers, of which a token is
sent to 2, with the loss that balances them, on encyclopedia, manuals of Python and German help pages in equal parts.  A
hint, no more.
"""

import argparse
import itertools
import time
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer, Qwen3MoeConfig, Qwen3MoeForCausalLM

from neuromeld import calibration_batches, compress_model, make_plan, parse_recipe
from neuromeld.checkpoint import load_model
from tiny_models import SEQLEN, TOKENS, documents, train, trained_tokenizer, windows_of

TEXTS = ("wikipedia-sample", "python-docs", "libreoffice-help-de")
WIDTH, LAYERS, HIDDEN, EXPERTS, ACTIVE = 64, 4, 64, 16, 2
RATE, VALIDATION = 4e-3, 40
KEPT = (4, 8)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, default=Path("demo-output/fewer-experts"))
    arguments.add_argument("--choose", action="store_true")
    given = arguments.parse_args()
    choose(given.out) if given.choose else make(given.out)


def make(out: Path) -> None:
    """Train tokenizer and model, and write them."""
    texts = [documents(source) for source in TEXTS]
    tokenizer = trained_tokenizer(list(chain(*texts)))
    model = untrained()
    windows = torch.cat([windows_of(text, tokenizer) for text in texts])
    loss = train(model, windows, RATE, output_router_logits=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    print(f"{out}: loss {loss:.3f} nats, {time.process_time():.0f} s of processor time")


def untrained() -> Qwen3MoeForCausalLM:
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=TOKENS,
        hidden_size=WIDTH,
        moe_intermediate_size=HIDDEN,
        num_experts=EXPERTS,
        num_experts_per_tok=ACTIVE,
        norm_topk_prob=True,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        router_aux_loss_coef=0.01,
    )
    return Qwen3MoeForCausalLM(config)


def choose(out: Path) -> None:
    """Print the loss on validation text of every way to leave some experts, and of narrower experts of that size."""
    tokenizer = AutoTokenizer.from_pretrained(out)
    parts = [windows_of(documents(source, "validation", 60_000), tokenizer)[:VALIDATION] for source in TEXTS]
    windows = torch.cat(parts)
    print(f"whole model: {loss_of(load_model(out, dtype=None, device='cpu'), windows):.4f} nats a token")
    for count in KEPT:
        ways = itertools.product(("reap", "frequency", "written"), ("none", "average"), ("none", "ridge"))
        for selector, merge, compensate in ways:
            options = {"count": count, "selector": selector, "merge": merge, "compensate": compensate}
            loss = compressed_loss(out, windows, experts=options)
            print(f"{count} experts, {selector}, merge {merge}, compensate {compensate}: {loss:.4f}", flush=True)
        loss = compressed_loss(out, windows, ffn={"size": HIDDEN * count // EXPERTS})
        print(f"all experts, {count}/{EXPERTS} of the neurons of each: {loss:.4f}", flush=True)


def compressed_loss(out: Path, windows: Tensor, **stages: object) -> float:
    model = load_model(out, dtype=None, device="cpu")
    recipe = parse_recipe(
        {**stages, "calibration": {"source": ",".join(TEXTS), "tokens": 16384, "seqlen": SEQLEN, "passes": "own"}}
    )
    compress_model(model, make_plan(model, recipe), calibration_batches(str(out), recipe.calibration))
    return loss_of(model, windows)


@torch.no_grad()
def loss_of(model: object, windows: Tensor) -> float:
    losses = [float(model(input_ids=batch, labels=batch).loss) * len(batch) for batch in windows.split(16)]
    return sum(losses) / len(windows)


if __name__ == "__main__":
    main()
