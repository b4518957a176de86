"""`neuromeld export` and `neuromeld serve-check`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Table

from neuromeld.checkpoint.export.engines import verdicts
from neuromeld.checkpoint.export.form import HEAD
from neuromeld.checkpoint.export.forms import FORMS
from neuromeld.checkpoint.source import locate
from neuromeld.cli import options as o
from neuromeld.cli.console import console
from neuromeld.jobs.export import export

FORM_HELP = "; ".join(f"{name}: {form.summary[0].lower()}{form.summary[1:]}" for name, form in FORMS.items())
UNTIE = "Write full copies of FFNs that share weights."
TYPES = ", ".join(FORMS["gguf"].quantize)


def export_command(
    model: o.Model,
    out: Annotated[Path, typer.Argument(help="The folder to write; it must not exist.")],
    to: Annotated[str, typer.Option("--to", metavar="FORM", help=f"{FORM_HELP}.")],
    quantize: Annotated[str | None, typer.Option(metavar="TYPE", help=f"Of gguf: {TYPES}.")] = None,
    untie: Annotated[bool, typer.Option("--untie", help=UNTIE)] = False,
    dtype: Annotated[o.Dtype | None, typer.Option("--dtype", help="Write in this type.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the export that is in OUT.")] = False,
    as_json: o.Json = False,
) -> None:
    """Write a checkpoint in the form that an engine loads, and compare what the engine makes of it."""
    o.quiet_transformers()
    wanted = getattr(torch, dtype) if dtype else None
    result = export(model, out, to, quantize=quantize, untie=untie, dtype=wanted, force=force)
    if as_json:
        typer.echo(json.dumps({"out": str(out)} | result.record))
        return
    console().print(f"{to} in {o.folder_argument(out)}: {result.checked}", soft_wrap=True)


def serve_check_command(model: o.Model, as_json: o.Json = False) -> None:
    """Say which engines load a checkpoint, at which versions, and why the others do not."""
    o.quiet_transformers()
    found = verdicts(locate(model).config())
    if as_json:
        typer.echo(json.dumps({"engines": [asdict(one) for one in found]}))
        return
    table = Table(*HEAD)
    for one in found:
        table.add_row(*one.row)
    console().print(table)
