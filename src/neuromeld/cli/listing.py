"""`neuromeld list`: what there is to choose from."""

import inspect
import json
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from neuromeld.archs import ARCHITECTURES
from neuromeld.cli import options as o
from neuromeld.recipe import RECIPES
from neuromeld.text import TEXT_SOURCES
from neuromeld.width.decoders import DECODERS
from neuromeld.width.merges import MERGES
from neuromeld.width.selectors import SELECTORS


class What(StrEnum):
    """What can be listed."""

    architectures = "architectures"
    methods = "methods"
    recipes = "recipes"
    texts = "texts"


def list_command(
    what: Annotated[What, typer.Argument(help="architectures, methods, recipes or texts")], as_json: o.Json = False
) -> None:
    """List the architectures, methods, recipes or texts that are known by name."""
    rows = _ROWS[what]()
    if as_json:
        typer.echo(json.dumps({what.value: [dict(zip(("name", "what"), row, strict=True)) for row in rows]}))
        return
    table = Table("name", "what it is")
    for name, description in rows:
        table.add_row(name, description)
    Console().print(table)


def _architectures() -> list[tuple[str, str]]:
    return [
        (name, "stock or native" if spec.stock_width else f"native ({spec.stock_refusal})")
        for name, spec in ARCHITECTURES.items()
    ]


def _methods() -> list[tuple[str, str]]:
    return [
        *((f"selector {name}", _summary(entry)) for name, entry in SELECTORS.items()),
        *((f"merge {name}", _summary(entry.fit)) for name, entry in MERGES.items()),
        *((f"decoder {name}", _summary(entry)) for name, entry in DECODERS.items()),
    ]


def _recipes() -> list[tuple[str, str]]:
    return [(name, path.read_text().splitlines()[0].removeprefix("# ")) for name, path in RECIPES.items()]


def _texts() -> list[tuple[str, str]]:
    return [(name, _summary(entry)) for name, entry in TEXT_SOURCES.items()]


def _summary(entry: object) -> str:
    return (inspect.getdoc(entry) or "").split("\n")[0]


_ROWS = {What.architectures: _architectures, What.methods: _methods, What.recipes: _recipes, What.texts: _texts}
