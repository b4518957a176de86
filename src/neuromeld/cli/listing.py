"""`neuromeld list`: what there is to choose from.

Each list imports what it lists and no more: names of texts and architectures are there without transformers' models.
"""

import json
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from neuromeld.cli import options as o
from neuromeld.cli.console import console
from neuromeld.cli.probe import show_probe
from neuromeld.errors import UserInputError
from neuromeld.registry import Registry

if TYPE_CHECKING:
    from neuromeld.archs.spec import ArchSpec


class What(StrEnum):
    """The lists that there are."""

    architectures = "architectures"
    methods = "methods"
    recipes = "recipes"
    recovery_recipes = "recovery-recipes"
    texts = "texts"
    images = "images"
    options = "options"
    stages = "stages"


def list_command(
    what: Annotated[What, typer.Argument(help=f"{', '.join(What)}")],
    probe_model: Annotated[
        str | None,
        typer.Option(
            "--probe",
            metavar="MODEL",
            help="architectures: what this model is, what is proved of it, and what that allows.",
        ),
    ] = None,
    as_json: o.Json = False,
) -> None:
    """List what is known by name."""
    if probe_model is not None:
        if what is not What.architectures:
            raise UserInputError(f"--probe compares a model with architectures, not with {what}")
        show_probe(probe_model, as_json=as_json)
        return
    rows = _ROWS[what]()
    if as_json:
        typer.echo(json.dumps({what.value: [dict(zip(("name", "what"), row, strict=True)) for row in rows]}))
        return
    table = Table("name", "what it is")
    for name, description in rows:
        table.add_row(name, description)
    console().print(table)


def _architectures() -> list[tuple[str, str]]:
    from neuromeld.archs import ARCHITECTURES, BY_CLASS

    by_type = {spec.model_type: spec for spec in BY_CLASS.values()} | dict(ARCHITECTURES.items())
    return [(name, _width(spec)) for name, spec in sorted(by_type.items())]


def _width(spec: "ArchSpec") -> str:
    from neuromeld.archs.spec import Space

    refusal = spec.refusal(Space.RESIDUAL)
    if refusal is not None:
        return f"no width ({refusal})"
    native_only = spec.native_only.get(Space.RESIDUAL)
    return f"native for width ({native_only})" if native_only else "stock or native"


def _methods() -> list[tuple[str, str]]:
    from neuromeld.stages.experts.selectors import SELECTORS as EXPERT_SELECTORS
    from neuromeld.stages.share_ffns import COMBINES
    from neuromeld.stages.width import merges as width_merges
    from neuromeld.stages.width import selectors as width_selectors
    from neuromeld.stages.width.decoders import DECODERS
    from neuromeld.units.compensation import COMPENSATIONS
    from neuromeld.units.merges import MERGES
    from neuromeld.units.selectors import SELECTORS

    tables = {
        "width": (width_selectors.SELECTORS, width_merges.MERGES, DECODERS),
        "ffn and heads": (SELECTORS, COMPENSATIONS),
        "ffn": (MERGES,),
        "share_ffns": (COMBINES,),
        "experts": (EXPERT_SELECTORS,),
    }
    return [
        (f"{stage} {table.kind} {name}", method.summary)
        for stage, found in tables.items()
        for table in found
        for name, method in table.items()
    ]


def _recipes() -> list[tuple[str, str]]:
    from neuromeld.planning.recipe import RECIPES

    return _first_lines(RECIPES)


def _recovery_recipes() -> list[tuple[str, str]]:
    from neuromeld.recovery import RECOVERY_RECIPES

    return _first_lines(RECOVERY_RECIPES)


def _first_lines(shipped: Registry[Path]) -> list[tuple[str, str]]:
    return [(name, path.read_text().splitlines()[0].removeprefix("# ")) for name, path in shipped.items()]


def _texts() -> list[tuple[str, str]]:
    from neuromeld.data.sources import TEXT_SOURCES

    return _summaries(TEXT_SOURCES)


def _images() -> list[tuple[str, str]]:
    from neuromeld.data.sources import IMAGE_SOURCES

    return _summaries(IMAGE_SOURCES)


def _summaries(sources: Registry[Any]) -> list[tuple[str, str]]:
    return [(name, entry.summary) for name, entry in sources.items()]


def _options() -> list[tuple[str, str]]:
    """List every option of a recipe: its flag, its key in a recipe, its default, what it is."""
    from neuromeld.cli.recipes import CALIBRATION_OPTIONS, STAGE_OPTIONS

    rows = []
    for option in (*STAGE_OPTIONS, *CALIBRATION_OPTIONS):
        default = (
            "" if option.info.is_required() or option.info.default is None else f" Default: {option.info.default}."
        )
        rows.append((f"{option.flag}  ({option.owner}.{option.field})", f"{option.info.description}{default}"))
    return rows


def _stages() -> list[tuple[str, str]]:
    from neuromeld.stages import STAGES

    return [(stage.name, (stage.Options.__doc__ or "").split("\n")[0]) for stage in STAGES]


_ROWS: dict[What, Callable[[], list[tuple[str, str]]]] = {
    What.architectures: _architectures,
    What.methods: _methods,
    What.recipes: _recipes,
    What.recovery_recipes: _recovery_recipes,
    What.texts: _texts,
    What.images: _images,
    What.options: _options,
    What.stages: _stages,
}
