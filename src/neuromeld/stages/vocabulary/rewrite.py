"""Write a tokenizer with some of its tokens alone, and prove that it has exactly these."""

import json
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import PreTrainedTokenizerBase

from neuromeld.checkpoint import load_tokenizer
from neuromeld.data.text.usage import splits_in_two_ways, tokenizer_in, vocabularies
from neuromeld.errors import UnsupportedModelError, UserInputError
from neuromeld.stages.vocabulary.marian import cut_files, pieces_of_marian
from neuromeld.stages.vocabulary.pieces import Pieces, pieces_of

FILE, ADDED = "tokenizer.json", "added_tokens.json"


def tokenizer_of(processor: Any) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a processor, which may be one.

    Raises `UserInputError` where there is none, `UnsupportedModelError` for one that is neither of `tokenizers` nor
    Marian's.
    """
    found = tokenizer_in(processor)
    if found is None:
        raise UserInputError("to cut a vocabulary takes the model's tokenizer: pass it as processor=")
    if getattr(found, "backend_tokenizer", None) is None and not splits_in_two_ways(found):
        raise UnsupportedModelError(
            f"{type(found).__name__} is neither a tokenizer of the library tokenizers (tokenizer.json) nor Marian's, "
            "and only the vocabulary of such a one can be cut"
        )
    return found


def pieces_in(tokenizer: PreTrainedTokenizerBase) -> tuple[Pieces, ...]:
    """Return the tokens of each of the vocabularies, without those that were added."""
    return pieces_of_marian(tokenizer) if splits_in_two_ways(tokenizer) else (pieces_of(read_tokenizer(tokenizer)),)


def read_tokenizer(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return what tokenizer.json would hold."""
    backend: Any = tokenizer.backend_tokenizer
    found: dict[str, Any] = json.loads(backend.to_str())
    return found


def with_tokens(processor: Any, *kept: Sequence[int]) -> Any:
    """Return a processor, or tokenizer, that knows the tokens `kept` alone, by their ids in the order of the new ones.

    kept   of each vocabulary

    Raises `UnsupportedModelError` where what is read again does not number the tokens so.
    """
    tokenizer = tokenizer_of(processor)
    expected = [_numbered(ids, stay) for ids, stay in zip(vocabularies(tokenizer), kept, strict=True)]
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        if splits_in_two_ways(tokenizer):
            cut_files(Path(folder), pieces_of_marian(tokenizer), kept)
        else:
            content = cut_content(json.loads(Path(folder, FILE).read_text(encoding="utf-8")), kept[0])
            Path(folder, FILE).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        _renumber_added(Path(folder), {old: new for new, old in enumerate(kept[0])})
        smaller = load_tokenizer(Path(folder))
    for found, wanted in zip(vocabularies(smaller), expected, strict=True):
        if found != wanted:
            wrong = sorted(token for token, number in found.items() if wanted.get(token) != number)
            raise UnsupportedModelError(
                f"{type(tokenizer).__name__} numbers its tokens by rules of its own, so its vocabulary cannot be cut "
                f"({', '.join(map(repr, wrong[:3])) or 'some are gone'} where written otherwise)"
            )
    if tokenizer is processor:
        return smaller
    whole = copy(processor)
    whole.tokenizer = smaller
    return whole


def _numbered(ids: Mapping[str, int], kept: Sequence[int]) -> dict[str, int]:
    names = {number: token for token, number in ids.items()}
    return {names[old]: new for new, old in enumerate(kept)}


def _renumber_added(folder: Path, new_id: Mapping[int, int]) -> None:
    """Rewrite the ids of added tokens in the files beside the vocabulary."""
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if "added_tokens_decoder" in config:
        stated = config["added_tokens_decoder"]
        config["added_tokens_decoder"] = {str(new_id[int(old)]): token for old, token in stated.items()}
        path.write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")
    path = folder / ADDED
    if path.is_file():
        added = {token: new_id[old] for token, old in json.loads(path.read_text(encoding="utf-8")).items()}
        path.write_text(json.dumps(added, ensure_ascii=False), encoding="utf-8")


def cut_content(content: Mapping[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """Return a tokenizer.json with the tokens `kept` alone, numbered anew in their order; all added ones are kept."""
    pieces = pieces_of(content)
    new_id = {old: new for new, old in enumerate(kept)}
    own = {number: token for token, number in pieces.ids.items()}
    added = [token | {"id": new_id[token["id"]]} for token in content["added_tokens"]]
    found = dict(content) | {"model": pieces.keep([own[old] for old in kept if old in own]), "added_tokens": added}
    if content.get("post_processor"):
        found["post_processor"] = _processed(content["post_processor"], new_id.__getitem__)
    if content.get("padding"):
        found["padding"] = content["padding"] | {"pad_id": new_id[content["padding"]["pad_id"]]}
    return found


def _processed(step: Mapping[str, Any], new_id: Callable[[int], int]) -> dict[str, Any]:
    """Return a post-processor with its ids renumbered: in a template, and beside the tokens around a sentence."""
    found = dict(step)
    if "processors" in step:
        found["processors"] = [_processed(one, new_id) for one in step["processors"]]
    if "special_tokens" in step:
        found["special_tokens"] = {
            name: token | {"ids": [new_id(old) for old in token["ids"]]}
            for name, token in step["special_tokens"].items()
        }
    for side in ("sep", "cls"):
        if side in step:
            token, old = step[side]
            found[side] = [token, new_id(old)]
    return found
