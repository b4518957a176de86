"""A tiny Llama that is mostly vocabulary, trained on real text in two languages; `large_vocabulary.yaml` measures it.

    OMP_NUM_THREADS=1 python benchmarks/large_vocabulary.py
    neuromeld benchmark benchmarks/large_vocabulary.yaml

No real model with a large vocabulary comes inside a package, so this one stands for them: a byte-level BPE of 4,096
tokens and 0.7 of the parameters in its table.  Tokenizer and model see the calibration splits of Wikipedia and of
LibreOffice's German help, in equal parts, three times; two minutes of one core.
"""

import argparse
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from neuromeld.data.text import TEXT_SOURCES, encode_texts

TEXTS = ("wikipedia-sample", "libreoffice-help-de")
CHARACTERS = 700_000
"""Of each text."""

TOKENS, WIDTH, LAYERS, HIDDEN = 4096, 48, 4, 96
SEQLEN, WINDOWS, EPOCHS, RATE = 128, 8, 3, 6e-3
END = "<|endoftext|>"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, default=Path("demo-output/large-vocabulary"))
    out = arguments.parse_args().out
    texts = [list(some_of(source)) for source in TEXTS]
    tokenizer = trained_tokenizer(list(chain(*texts)))
    ids = [torch.tensor(list(chain(*encode_texts(documents, tokenizer)))) for documents in texts]
    windows = torch.cat([one[: len(one) // SEQLEN * SEQLEN].view(-1, SEQLEN) for one in ids])
    model, loss = trained_model(windows)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    print(f"{out}: {windows.numel():,} tokens, loss {loss:.3f} nats, {time.process_time():.0f} s of processor time")


def some_of(source: str) -> Iterator[str]:
    """The first documents of the calibration split, so many characters of them."""
    left = CHARACTERS
    for document in TEXT_SOURCES[source]("calibration"):
        if left <= 0:
            return
        left -= len(document.text)
        yield document.text


def trained_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=TOKENS, special_tokens=[END], initial_alphabet=alphabet, show_progress=False),
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END)


def trained_model(windows: Tensor) -> tuple[LlamaForCausalLM, float]:
    """Train on every window some times, in random order; return the mean loss of the last tenth of the steps, too."""
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
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    batches = [batch for _ in range(EPOCHS) for batch in windows[torch.randperm(len(windows))].split(WINDOWS)]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=len(batches), pct_start=0.05)
    curve = []
    for batch in batches:
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        curve.append(loss.item())
    last = curve[-max(1, len(curve) // 10) :]
    return model.eval(), sum(last) / len(last)


if __name__ == "__main__":
    main()
