"""Text files of any kind and encoding, JSON lines of any shape, and files of pairs."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from random import Random
from typing import Any

from fuzz.case import CHEAP, TEXT, Case, Scene, compression
from fuzz.damage import TEXTS, VALUES, damaged_bytes, damaged_values
from tiny import WORDS

SUFFIXES = (".txt", ".jsonl", ".json", ".csv", ".tsv", ".parquet", ".jsonl.gz", ".txt.gz", ".md", ".TXT", "")
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252")
LINES: tuple[Callable[[str], Any], ...] = (
    lambda text: {"text": text},
    lambda text: {"content": text},
    lambda text: text,
    lambda text: {"messages": [{"role": "user", "content": text}]},
    lambda text: {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"function": {"name": text}}]}]},
    lambda text: {"messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]},
    lambda text: {"conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": text}]},
    lambda text: {"instruction": text, "input": "", "output": text},
    lambda text: {"text": [text]},
    lambda text: [{"role": "user", "content": text}],
    lambda text: {"source": text, "target": text},
)


def case(scene: Scene) -> Case:
    """A file of text or of pairs, to calibrate on, to measure on or to train on."""
    draw = scene.draw
    if draw.random() < 0.2:
        return _pairs(scene)
    scene.take("model")
    name = f"text{draw.choice(SUFFIXES)}"
    content = _content(draw, name)
    (scene.here / name).write_bytes(content)
    source = (
        f"file:{name}" if draw.random() < 0.95 else draw.choice(("file:", f"file:{name}/", name, "file:.", "nonesuch"))
    )
    way = draw.random()
    if way < 0.3:
        return Case(["evaluate", "model", "--text", source, "--tokens", "64", "--seqlen", "32"])
    if way < 0.4:
        options = ["--steps", "1", "--seqlen", "32", "--batch-tokens", "32", "--no-bf16"]
        return Case(["recover", "model", "out", "--train", source, *options], writes=("out",))
    calibration = ["--calibration", source, *TEXT[2:]]
    if way < 0.7:
        return Case(["similarity", "model", *calibration])
    return compression("model", *CHEAP, *calibration)


def _content(draw: Random, name: str) -> bytes:
    texts = [" ".join(draw.choices(WORDS, k=draw.choice((1, 40, 90)))) for _ in range(80)]
    way = draw.randrange(9)
    if way == 0:
        texts = [draw.choice(TEXTS) for _ in range(40)]
    elif way == 1:
        texts = ["w1 " * draw.choice((0, 1, 2_000_000))]  # one line of up to 6 MB
    if "json" in name:
        lines = _json_lines(draw, texts)
        content = json.dumps(lines) if name.endswith(".json") else "\n".join(json.dumps(line) for line in lines)
    elif name.endswith(".csv"):
        rows = io.StringIO()
        csv.writer(rows).writerows([["text"], *([text] for text in texts)])
        content = rows.getvalue()
    else:
        content = draw.choice(("\n", "\n\n", "\r\n", "\r\r", "\x0c", "\0")).join(texts)
    data = content.encode(draw.choice(ENCODINGS) if draw.random() < 0.3 else "utf-8", "replace")
    if name.endswith(".gz") and draw.random() < 0.7:
        data = gzip.compress(data)
    return damaged_bytes(draw, data) if draw.random() < 0.3 else data


def _json_lines(draw: Random, texts: list[str]) -> list[Any]:
    shape = draw.choice(LINES)
    lines = [shape(text) for text in texts]
    for _ in range(draw.choice((0, 0, 1, 1, 3))):
        place = draw.randrange(len(lines))
        lines[place] = draw.choice(VALUES) if draw.random() < 0.5 else damaged_values(draw, lines[place])
    return lines


def _pairs(scene: Scene) -> Case:
    draw = scene.draw
    scene.take("translator")
    path = scene.take("pairs.tsv")
    way = draw.randrange(4)
    if way == 0:
        path.write_bytes(damaged_bytes(draw, path.read_bytes()))
    elif way == 1:
        lines = path.read_text().splitlines()
        lines[draw.randrange(len(lines))] = draw.choice(
            ("", "\t", "w1", "w1\t", "\tw1", "a\tb\tc", "w1\tw2\n\nw3", "\0\t\0")
        )
        path.write_text("\n".join(lines))
    else:
        path = path.rename(path.with_suffix(draw.choice((".jsonl", ".jsonl", ".txt", ".csv"))))
        lines = [{"source": f"w05 w0{i % 9}", "target": f"w06 w0{i % 7}"} for i in range(60)]
        damaged = damaged_values(draw, lines, draw.choice((1, 3)))
        path.write_text("\n".join(map(json.dumps, damaged if isinstance(damaged, list) else [damaged])))
    if draw.random() < 0.3:
        return Case(["evaluate", "translator", "--pairs", f"file:{path.name}", "--num-examples", "1"])
    options = ["--share-ffns-at", "0-1", "--no-evaluate", "--calibration", f"file:{path.name}"]
    return compression("translator", *options, "--calibration-tokens", "100", loads_as="AutoModelForSeq2SeqLM")
