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
    "command-lines": 60,
    "configs": 40,
    "weights": 20,
    "tokenizers": 20,
    "texts": 30,
    "media": 20,
    "settings": 30,
    "records": 20,
    "places": 20,
}
