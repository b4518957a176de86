"""Command lines: valid ones of every command, with options and arguments added, dropped, doubled, or given nonsense.

Commands and options are those that the program has: a new one is covered as soon as it is there.
"""

import itertools
from random import Random
from typing import Any

import typer

from fuzz.case import CHEAP, TEXT, Case, Scene
from fuzz.damage import NUMBERS, TEXTS
from neuromeld.cli.app import COMMANDS, build_app

ARGUMENTS = {
    "out": ["out"],
    "folder": ["small"],
    "grid": ["grid.yaml"],
    "what": ["methods"],
    "models": ["model", "small"],
}
"""Good values of arguments, by name; every other argument is a model."""

GRID = """models: [model]
text: file:words.jsonl
seqlen: 32
evaluation_tokens: 64
calibration_tokens: 64
rows: {drop: {recipe: {drop_layers: {layers: [1]}}}}
"""
QUICK = {
    "compress": [*CHEAP, *TEXT],
    "plan": CHEAP[:4],
    "recover": ["--train", "file:words.jsonl", "--steps", "1", "--seqlen", "32", "--batch-tokens", "32", "--no-bf16"],
    "evaluate": ["--text", "file:words.jsonl", "--tokens", "64", "--seqlen", "32"],
    "similarity": TEXT,
    "frontier": ["--keep", "0.9", *TEXT],
    "benchmark": ["--dry-run"],
}
"""Options that make a command fast; a command that is not named is run without any."""

GOOD = (
    "file:words.jsonl",
    "model",
    "small",
    "transport",
    "wanda",
    "ridge",
    "float32",
    "0-1",
    "1GB",
    "shared",
    "keep=[]",
)
WHOLE = ("0", "-1", "1", "2", "3", "33", "9" * 10, "9" * 30)
DEVICES = ("cpu", "meta", "cuda:99", "cpu:7", "nonesuch", "")
BEYOND = {"--steps", "--new-tokens", "--prompt-tokens", "--tasks", "--batch-size"}
"""Where a huge number is a long job and no mistake, or a name loads a harness that takes seconds: nonsense only."""


def case(scene: Scene) -> Case:
    """A command line with one to four mistakes."""
    draw = scene.draw
    name = draw.choice([*COMMANDS, "compress", "plan"])
    command: Any = typer.main.get_command(build_app(name)).commands[name]  # type: ignore[attr-defined]
    for original in ("model", "words.jsonl", "small"):
        scene.take(original)
    (scene.here / "grid.yaml").write_text(GRID)
    arguments = [p for p in command.params if not p.opts[0].startswith("-")]
    options = [p for p in command.params if p.opts[0].startswith("-")]
    words = [[*ARGUMENTS.get(p.name, ["model"])] for p in arguments]
    quick = QUICK.get(name, [])
    words += [quick] if draw.random() < 0.9 else [quick[: draw.randrange(len(quick) + 1)]]
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        words.append(_option(draw, draw.choice(options))) if options else None
    if draw.random() < 0.35:
        _spoil(draw, words)
    line = [word for part in words for word in part]
    if draw.random() < 0.04:
        name = draw.choice(("", "compres", "--version", "--help", "-h", "PLAN", "\u202e", "--json"))
    written = ("small",) if name == "evaluate" else ("out", "small/report.html", "frontier.html", *_outs(line))
    loads = ("out", "AutoModelForCausalLM") if name in ("compress", "recover") and "--help" not in line else None
    if line[:2] != ["model", "out"]:
        loads = None
    return Case([name, *line], writes=written, keeps=("results",) if name == "benchmark" else (), result=loads)


def _option(draw: Random, option: Any) -> list[str]:
    """An option with a value, good or bad; flags have none, unless by mistake."""
    spelling = draw.choice([*option.opts, *option.secondary_opts])
    if option.is_flag:
        return [spelling] if draw.random() < 0.95 else [f"{spelling}=1"]
    if spelling in BEYOND:
        value = draw.choice(("0", "-1", "1", "nan", "", "x"))
    elif spelling == "--device":
        value = draw.choice(DEVICES)
    else:
        value = draw.choice(draw.choice((WHOLE, NUMBERS, TEXTS, GOOD)))
    if spelling == "--out":
        value = draw.choice(("out", "out.html", "x.svg", "x.json", "none/x.html", "model", "", "n" * 300 + ".html"))
    return [spelling, value] if draw.random() < 0.8 else [f"{spelling}={value}"]


def _spoil(draw: Random, words: list[list[str]]) -> None:
    """One mistake with whole parts of the line."""
    way = draw.randrange(6)
    place = draw.randrange(len(words))
    if way == 0:
        del words[place]
    elif way == 1:
        words.insert(draw.randrange(len(words) + 1), words[place])
    elif way == 2:
        words.append([draw.choice(("--nonesuch", "--ffn-ratoi", "-x", "--", "extra", "--=", "---", "-"))])
    elif way == 3 and words[place]:
        words[place] = words[place][:-1]
    elif way == 4:
        words[place] = [draw.choice(TEXTS)]
    else:
        draw.shuffle(words)


def _outs(line: list[str]) -> list[str]:
    """Files that `--out` names."""
    told = [word.partition("=")[2] for word in line if word.startswith("--out=")]
    return [*told, *(value for word, value in itertools.pairwise(line) if word == "--out")]
