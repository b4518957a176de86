"""A tiny Llama that is mostly vocabulary, trained on real text in two languages; `large_vocabulary.yaml` measures it.

    OMP_NUM_THREADS=1 python benchmarks/large_vocabulary.py
    neuromeld benchmark benchmarks/large_vocabulary.yaml

No real model with a large vocabulary comes inside a package, so this one stands for them: a byte-level BPE of 4,096
tokens and 0.7 of the parameters in its table.  Tokenizer and model see the calibration splits of Wikipedia and of
LibreOffice's German help, in equal parts, three times; two minutes of one core.
"""

import argparse
import time
from itertools import chain
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tiny_models import TOKENS, documents, train, trained_tokenizer, windows_of

TEXTS = ("wikipedia-sample", "libreoffice-help-de")
WIDTH, LAYERS, HIDDEN, RATE = 48, 4, 96, 6e-3


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, default=Path("demo-output/large-vocabulary"))
    out = arguments.parse_args().out
    texts = [documents(source) for source in TEXTS]
    tokenizer = trained_tokenizer(list(chain(*texts)))
    windows = torch.cat([windows_of(text, tokenizer) for text in texts])
    model = untrained()
    loss = train(model, windows, RATE)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    print(f"{out}: {windows.numel():,} tokens, loss {loss:.3f} nats, {time.process_time():.0f} s of processor time")


def untrained() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=TOKENS,
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    return LlamaForCausalLM(config)


if __name__ == "__main__":
    main()
