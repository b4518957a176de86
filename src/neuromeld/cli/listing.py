"""`neuromeld list`: what there is to choose from."""

import inspect
import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from neuromeld.archs import ARCHITECTURES
from neuromeld.archs.spec import RESIDUAL, ArchSpec
from neuromeld.cli import options as o
from neuromeld.recipe import RECIPES
from neuromeld.recover import RECOVERY_RECIPES
from neuromeld.registry import Registry
from neuromeld.text import TEXT_SOURCES
from neuromeld.width.decoders import DECODERS
from neuromeld.width.merges import MERGES
from neuromeld.width.selectors import SELECTORS


class What(StrEnum):
    """What can be listed."""

    architectures = "architectures"
    methods = "methods"
    recipes = "recipes"
    recovery_recipes = "recovery-recipes"
    texts = "texts"


def list_command(what: Annotated[What, typer.Argument(help=f"{', '.join(What)}")], as_json: o.Json = False) -> None:
    """List what is known by name."""
    rows = _ROWS[what]()
    if as_json:
        typer.echo(json.dumps({what.value: [dict(zip(("name", "what"), row, strict=True)) for row in rows]}))
        return
    table = Table("name", "what it is")
    for name, description in rows:
        table.add_row(name, description)
    Console().print(table)


def _architectures() -> list[tuple[str, str]]:
    return [(name, _width(spec)) for name, spec in ARCHITECTURES.items()]


def _width(spec: ArchSpec) -> str:
    if RESIDUAL in spec.refusals:
        return f"no width ({spec.refusals[RESIDUAL]})"
    return f"native for width ({spec.native_only[RESIDUAL]})" if RESIDUAL in spec.native_only else "stock or native"


def _methods() -> list[tuple[str, str]]:
    return [
        *((f"selector {name}", _summary(entry)) for name, entry in SELECTORS.items()),
        *((f"merge {name}", _summary(entry.fit)) for name, entry in MERGES.items()),
        *((f"decoder {name}", _summary(entry)) for name, entry in DECODERS.items()),
    ]


def _recipes(shipped: Registry[Path] = RECIPES) -> list[tuple[str, str]]:
    return [(name, path.read_text().splitlines()[0].removeprefix("# ")) for name, path in shipped.items()]


def _recovery_recipes() -> list[tuple[str, str]]:
    return _recipes(RECOVERY_RECIPES)


def _texts() -> list[tuple[str, str]]:
    return [(name, _summary(entry)) for name, entry in TEXT_SOURCES.items()]


def _summary(entry: object) -> str:
    return (inspect.getdoc(entry) or "").split("\n")[0]


_ROWS = {
    What.architectures: _architectures,
    What.methods: _methods,
    What.recipes: _recipes,
    What.recovery_recipes: _recovery_recipes,
    What.texts: _texts,
}
