"""`file:PATH`: the user's own text, as plain text or as JSON lines.

Every document is named after its file, so that which split it falls to depends on its text alone: repeated text
stays within one split, and lines added to the file move no others.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from neuromeld.data.splits import Document, Split, select_split
from neuromeld.errors import UserInputError

PARAGRAPHS_CHARACTERS = 2000
"""Paragraphs of a .txt file are gathered into documents of up to this length."""


def file_documents(path: Path, split: Split, tokenizer: PreTrainedTokenizerBase) -> list[Document]:
    """The documents of one split of a .txt or .jsonl file.  `UserInputError` when it cannot be read as such."""
    if path.suffix not in (".txt", ".jsonl"):
        raise UserInputError(f"{path} ends neither in .txt nor in .jsonl, the two kinds of text file there are")
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserInputError(f"{path} cannot be read as UTF-8 text: {error}") from error
    texts = paragraph_runs(content) if path.suffix == ".txt" else json_lines(path, content, tokenizer)
    return select_split((Document(path.name, text) for text in texts), split, source=str(path))


def paragraph_runs(content: str) -> Iterator[str]:
    """Consecutive paragraphs, gathered while they fit `PARAGRAPHS_CHARACTERS`; a longer paragraph stays whole."""
    run = ""
    for paragraph in re.split(r"\n\s*\n", content.strip()):
        if run and len(run) + len(paragraph) > PARAGRAPHS_CHARACTERS:
            yield run
            run = ""
        run = f"{run}\n\n{paragraph}" if run else paragraph
    if run:
        yield run


def json_lines(path: Path, content: str, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """The text of every line: `{"text": ...}` as it is, `{"messages": ...}` through the chat template."""
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserInputError(f"{where} is not JSON: {error}") from error
        match entry:
            case {"text": str(text)}:
                yield text
            case {"messages": [*messages]} if messages and all(map(_is_message, messages)):
                yield _chat(messages, tokenizer, where)
            case _:
                raise UserInputError(
                    f'{where} has neither "text": "..." nor "messages": [{{"role": "...", "content": "..."}}, ...]'
                )


def _is_message(message: object) -> bool:
    match message:
        case {"role": str(), "content": str()}:
            return True
    return False


def _chat(messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, where: str) -> str:
    if tokenizer.chat_template is None:
        raise UserInputError(
            f'{where} is a chat, but the tokenizer has no chat template; give {{"text": "..."}} lines, '
            "or use the tokenizer of the model's chat variant"
        )
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False))
    except TemplateError as error:
        raise UserInputError(f"{where}: the tokenizer's chat template refuses the messages: {error}") from error
