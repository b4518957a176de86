"""The files beside tokenizer.json that list tokens, written for those that stay; only files that are there already."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from neuromeld.checkpoint.stated import read_json
from neuromeld.stages.vocabulary.choose import Vocabulary
from neuromeld.stages.vocabulary.rewrite import ADDED, tokenizer_of
from neuromeld.stages.vocabulary.sentencepiece import keep_tokens

OF_MODEL = ("vocab.json", "merges.txt", "vocab.txt")
"""What the library tokenizers writes of a model."""


def write_other_files(vocabulary: Vocabulary, source: Path, out: Path) -> None:
    """Write into `out` the files of `source` that list tokens, for those that stay, beside those of the tokenizer."""
    tokenizer = tokenizer_of(vocabulary.processor)
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        return  # it has written all itself
    with TemporaryDirectory() as folder:
        tokenizer.backend_tokenizer.model.save(folder)
        for name in OF_MODEL:
            if (source / name).is_file() and Path(folder, name).is_file():
                (out / name).write_bytes(Path(folder, name).read_bytes())
    if (source / ADDED).is_file():
        ids = tokenizer.get_vocab()
        added = {token: ids[token] for token in read_json(source / ADDED) if token in ids}
        (out / ADDED).write_text(json.dumps(added, indent=2, ensure_ascii=False), encoding="utf-8")
    names = {number: token for token, number in tokenizer.get_vocab().items()}
    kept = {old: names[new] for new, old in enumerate(vocabulary.kept)}
    for path in sorted(source.glob("*.model")):
        (out / path.name).write_bytes(keep_tokens(path, kept))
