"""Read the rows of a data set: a text, or a chat in one of the forms that are in use."""

import json
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from neuromeld.errors import UserInputError

ACCEPTED = (
    '{"text": "..."}, {"messages": [{"role": "...", "content": "..."}, ...]} as OpenAI has them, '
    '{"conversations": [{"from": "...", "value": "..."}, ...]} as ShareGPT, or '
    '{"instruction": "...", "input": "...", "output": "..."} as Alpaca'
)

SHAREGPT_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "model": "assistant",
    "observation": "tool",
    "function_response": "tool",
}


def row_text(row: Any, tokenizer: PreTrainedTokenizerBase, where: str) -> str:
    """Return the text of a row; a chat becomes text by the tokenizer's chat template.

    `UserInputError`, beginning with `where`, for a row of another shape and where the template cannot be used.
    """
    match row:
        case {"text": str(text)}:
            return checked_text(text, where)
        case {"messages": [_, *_] as turns} | {"conversations": [_, *_] as turns}:
            messages = [_message(turn, where) for turn in turns]
            return checked_text(_chat(messages, row.get("tools"), tokenizer, where), where)
        case {"instruction": str(task), "output": str(answer)}:
            given = row.get("input") or ""
            if isinstance(given, str):
                return checked_text(_alpaca(task, given, answer, tokenizer, where), where)
    raise UserInputError(f"{where} is none of {ACCEPTED}")


def checked_text(text: str, where: str) -> str:
    """Return the text; `UserInputError` where it cannot be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserInputError(f"{where} holds half a character, {text[error.start]!a}; leave it out") from None
    return text


def _alpaca(task: str, given: str, answer: str, tokenizer: PreTrainedTokenizerBase, where: str) -> str:
    """Render as a chat, or where the tokenizer has no template for those as three paragraphs."""
    asked = f"{task}\n\n{given}" if given else task
    if tokenizer.chat_template is None:
        return f"{asked}\n\n{answer}"
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return _chat(turns, None, tokenizer, where)


def _message(turn: Any, where: str) -> dict[str, Any]:
    """Return one turn as chat templates take it: its content as one string, the arguments of its calls as mappings."""
    match turn:
        case {"from": str(role), "value": content}:
            return {"role": SHAREGPT_ROLES.get(role.lower(), role.lower()), "content": _content(content, where)}
        case {"role": str(), "tool_calls": [_, *_] as calls}:
            return {**turn, "content": _content(turn.get("content") or "", where), "tool_calls": [*map(_call, calls)]}
        case {"role": str(), "content": content}:
            return {**turn, "content": _content(content, where)}
    raise UserInputError(
        f"{where} has a turn that says neither role and content nor from and value; accepted: {ACCEPTED}"
    )


def _content(content: Any, where: str) -> str:
    match content:
        case str():
            return content
        case [*parts] if all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in parts):
            return "".join(part["text"] for part in parts)
    raise UserInputError(f"{where} has a turn whose content is not text; accepted: {ACCEPTED}")


def _call(call: Any) -> Any:
    match call:
        case {"function": {"arguments": str(arguments)} as function}:
            try:
                return {**call, "function": {**function, "arguments": json.loads(arguments)}}
            except (ValueError, RecursionError):
                return call
    return call


def _chat(messages: list[dict[str, Any]], tools: Any, tokenizer: PreTrainedTokenizerBase, where: str) -> str:
    templates = tokenizer.chat_template
    if templates is None:
        raise UserInputError(
            f'{where} is a chat, but the tokenizer has no chat template; give {{"text": "..."}} lines, '
            "or use the tokenizer of the model's chat variant"
        )
    if isinstance(templates, dict) and "default" not in templates and not (tools and "tool_use" in templates):
        raise UserInputError(
            f"{where} is a chat, but of the tokenizer's chat templates ({', '.join(templates)}) none is the default; "
            'rename one to "default" beside the model, or give {"text": "..."} lines'
        )
    try:
        return str(tokenizer.apply_chat_template(messages, tools=tools or None, tokenize=False))
    except Exception as error:  # a template is a program, and raises what it likes
        raise UserInputError(
            f"{where}: the tokenizer's chat template refuses the messages: {str(error) or type(error).__name__}"
        ) from error
