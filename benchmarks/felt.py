"""What a reader notices of smaller language models: likeliest tokens, last words, and how long they say the same.

    python benchmarks/felt.py original=MODEL smaller=OUT ... [--device cuda] [--out benchmarks/results/felt.jsonl]

On the evaluation split of each text, always the likeliest token; a line of JSON a model:

next_token  share of the tokens of 16,384 that are the likeliest
last_words  whether all tokens of a sentence's last word are the likeliest behind what stands before it, a 1 or a 0 for
            each of at most 400 passages of whole sentences, of 60 words and more
agrees      behind 64 prompts of 64 tokens, share of the 64 tokens by which the first model goes on that are the
            likeliest, where all before them is the first model's; in the format of the weights, so that ties are rare
until       for each prompt, how many of these tokens come before the first that is not
"""

import argparse
import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from neuromeld.checkpoint.source import locate
from neuromeld.data.text import read_documents, token_windows
from neuromeld.evaluation import perplexity
from neuromeld.evaluation.mode import eval_mode
from neuromeld.model.passes import chosen_passes, passes_in
from neuromeld.model.predictions import measure_in_chunks, predictions
from tasks.score import encoded

TEXTS = ("wikipedia-sample", "news-sample", "python-docs")
TOKENS, SEQLEN = 16_384, 512
PASSAGES, WORDS = 400, 60
PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 64, 64, 64
BATCH = 16

LAST_WORD = re.compile(r"\s\w+(?:['-]\w+)*(?=[.!?](?:\s|$))")
"""Of a sentence, with the space before it."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("models", nargs="+", metavar="NAME=MODEL", help="By any names; the first is the original.")
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--passes", default="auto", choices=["own", "auto", "bfloat16"])
    arguments.add_argument("--out", type=Path, default=Path("benchmarks/results/felt.jsonl"))
    options = arguments.parse_args()
    for asked in options.models:
        if not all(asked.partition("=")):
            arguments.error(f"{asked!r} has no name: give NAME=MODEL, such as smaller=OUT")
    said: dict[str, Tensor] = {}
    for asked in options.models:
        name, _, where = asked.partition("=")
        source = locate(where)
        model, tokenizer = source.load(torch.float32, options.device), source.tokenizer()
        with eval_mode(model):
            said = said or {text: continued(model, tokenizer, text) for text in TEXTS}
            same = {text: right_tokens(model, said[text])[:, -NEW_TOKENS:] for text in TEXTS}
            with passes_in(chosen_passes(options.passes, model), model):
                found = {text: felt(model, tokenizer, text) | told(same[text]) for text in TEXTS}
        line = json.dumps({"model": name, "passes": options.passes, "device": options.device, "found": found})
        with options.out.open("a") as file:
            file.write(line + "\n")
        print(line, flush=True)


@torch.no_grad()
def continued(model: PreTrainedModel, tokenizer: Any, text: str) -> Tensor:
    """The first tokens of evaluation windows, and how the model goes on, `(prompts, tokens)`."""
    sizes = {"num_tokens": PROMPTS * PROMPT_TOKENS, "seqlen": PROMPT_TOKENS}
    prompts = token_windows(text, tokenizer, split="evaluation", **sizes).input_ids.to(model.device)
    length = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
    parts = [
        model.generate(part, attention_mask=torch.ones_like(part), pad_token_id=tokenizer.eos_token_id, **length)
        for part in prompts.split(BATCH)
    ]
    return torch.cat(parts)


def felt(model: PreTrainedModel, tokenizer: Any, text: str) -> dict[str, Any]:
    """What a model gets right of a text."""
    windows = token_windows(text, tokenizer, split="evaluation", num_tokens=TOKENS, seqlen=SEQLEN)
    cloze = islice(last_words(read_documents(text, "evaluation", tokenizer)), PASSAGES)
    words = right_words(model, [encoded(tokenizer, context, word) for context, word in cloze])
    return {
        "next_token": perplexity(model, windows).accuracy,
        "last_words": "".join(str(int(right)) for right in words),
    }


def told(same: Tensor) -> dict[str, Any]:
    """How often, and how long from the start of each row, tokens are the same."""
    return {"agrees": float(same.float().mean()), "until": [int(row) for row in same.int().cumprod(1).sum(1)]}


def last_words(documents: list[Any]) -> Iterator[tuple[str, str]]:
    """Passages without the last word of their last sentence, and that word with the space before it."""
    for document in documents:
        begin = 0
        for word in LAST_WORD.finditer(document.text):
            passage = document.text[begin : word.start()].strip()
            if len(passage.split()) >= WORDS:
                yield passage, word[0]
                begin = word.end() + 1


@torch.no_grad()
def right_words(model: PreTrainedModel, pairs: list[tuple[list[int], int]]) -> list[bool]:
    """Whether all tokens behind each context are the likeliest."""
    right = []
    for first in range(0, len(pairs), BATCH):
        here = pairs[first : first + BATCH]
        longest = max(len(ids) for ids, _ in here)
        ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in here], device=model.device)
        likeliest = right_tokens(model, ids)  # what is behind the word does not change what is before it
        right += [bool(row[start - 1 : len(ids) - 1].all()) for row, (ids, start) in zip(likeliest, here, strict=True)]
    return right


@torch.no_grad()
def right_tokens(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Whether each token but the first is the likeliest behind those before it, `(rows, tokens - 1)`."""
    parts = [
        measure_in_chunks(lambda logits, wanted: logits.argmax(-1) == wanted, predictions(model, {"input_ids": part}))
        for part in ids.split(BATCH)
    ]
    return torch.cat(parts).reshape(len(ids), -1)


if __name__ == "__main__":
    main()
