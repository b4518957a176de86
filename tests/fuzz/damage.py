"""Damage that any file may have: to its bytes, to its JSON, to single values."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

TEXTS = (
    "",
    " ",
    "é",
    "\u202e",
    "[bold]x[/bold]",
    "[/]",
    "<script>alert(1)</script>",
    "{}",
    "%s",
    "n" * 300,
    "a\nb",
    "\x1b[31m",
    "-",
    "--",
    "none/none",
    "file:",
    "file:nothing.txt",
    "package:__main__",
    "package:a.b",
    "~nosuchuser/x",
    "1" * 40,
)
NUMBERS = (
    "0",
    "-1",
    "1",
    "3",
    "0.5",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "9" * 30,
    "0x10",
    "\uff11",
    "1e3",
    "2.5",
    "true",
    "1,5",
)
VALUES = (
    None, True, False, -1, 0, 1, 3, 2.5, -0.0, float("nan"), float("inf"), 10**6, 2**31, 2**63, 10**30, 1e308,
    "", "x", "nan", "\0", "é" * 50, "[red]", "a/b", "../x", [], {}, [[]], [None], {"a": {"b": 1}}, [1, "x", None],
)  # fmt: skip


def damaged_bytes(draw: Random, data: bytes) -> bytes:
    """The bytes cut off, changed here and there, recoded, or replaced."""
    ways: list[Callable[[], bytes]] = [
        lambda: data[: draw.randrange(len(data) + 1)],
        lambda: _flipped(draw, data, 1),
        lambda: _flipped(draw, data, 20),
        lambda: b"",
        lambda: draw.randbytes(200),
        lambda: b"\xef\xbb\xbf" + data,
        lambda: data.decode("utf-8", "replace").encode("utf-16"),
        lambda: gzip.compress(data),
        lambda: data + draw.randbytes(9),
        lambda: b"\0" * len(data),
        lambda: data[len(data) // 2 :],
        lambda: b"[" * 100_000,
        lambda: b"{}",
        lambda: b"null",
        lambda: b"[1, 2]",
    ]
    return draw.choice(ways)()


def _flipped(draw: Random, data: bytes, count: int) -> bytes:
    changed = bytearray(data or b"\0")
    for _ in range(count):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def damage_file(draw: Random, path: Path) -> None:
    """Damage the bytes of a file where it lies, or put something else in its place."""
    way = draw.randrange(10)
    if way > 1:
        path.write_bytes(damaged_bytes(draw, path.read_bytes()))
        return
    path.unlink()
    if way == 1:
        path.mkdir()


def damaged_values(draw: Random, data: Any, times: int = 1) -> Any:
    """Nested data with some values deleted, replaced, nested deeper or made strings."""
    data = json.loads(json.dumps(data))
    for _ in range(times):
        places = list(_places(data))
        if not places:
            return draw.choice(VALUES)
        holder, key = draw.choice(places)
        ways: list[Callable[[Any], Any]] = [
            lambda _: draw.choice(VALUES),
            lambda _: draw.choice(VALUES),
            lambda value: -value if isinstance(value, int | float) else [value],
            lambda value: {"x": value},
            str,
        ]
        if draw.random() < 0.2:
            del holder[key]
        else:
            holder[key] = draw.choice(ways)(holder[key])
    return data


def _places(data: Any) -> Any:
    """Every (container, key or index) in nested data."""
    keys = data.keys() if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
    for key in keys:
        yield data, key
        yield from _places(data[key])


def damage_json(draw: Random, path: Path) -> None:
    """Damage a JSON file: its values mostly, else its bytes."""
    if draw.random() < 0.15:
        damage_file(draw, path)
        return
    data = damaged_values(draw, json.loads(path.read_text(encoding="utf-8")), draw.choice((1, 1, 1, 2, 5)))
    path.write_text(json.dumps(data), encoding="utf-8")
