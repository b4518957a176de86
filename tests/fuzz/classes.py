"""The classes of hostile input, and how many cases of each `make test` draws."""

from collections.abc import Callable

from fuzz import command_lines, configs, media, places, records, settings_files, texts, tokenizer_files, weights
from fuzz.case import Case, Scene

CLASSES: dict[str, Callable[[Scene], Case]] = {
    "command-lines": command_lines.case,
    "configs": configs.case,
    "weights": weights.case,
    "tokenizers": tokenizer_files.case,
    "texts": texts.case,
    "media": media.case,
    "settings": settings_files.case,
    "records": records.case,
    "places": places.case,
}

IN_TESTS = {
    "command-lines": 130,
    "configs": 80,
    "weights": 40,
    "tokenizers": 40,
    "texts": 60,
    "media": 30,
    "settings": 60,
    "records": 40,
    "places": 30,
}
