"""`neuromeld compress` and its dry run, `neuromeld plan`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from neuromeld.cli import options as o
from neuromeld.cli.recipes import takes_recipe
from neuromeld.compress import compress, plan_for
from neuromeld.plan import Plan
from neuromeld.recipe import Recipe
from neuromeld.sizes import changes


@takes_recipe
def compress_command(
    model: o.Model,
    out: Annotated[Path, typer.Argument(help="The folder to write; it must not exist.")],
    recipe: Recipe,
    device: o.Device = "cpu",
    dtype: o.DtypeOption = None,
    allow_pickle: o.AllowPickle = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the checkpoint that is in OUT.")] = False,
    as_json: o.Json = False,
) -> None:
    """Make MODEL smaller and write the checkpoint to OUT."""
    o.quiet_transformers()
    o.check_device(device)
    result = compress(
        model,
        recipe,
        out,
        force=force,
        dtype=o.torch_dtype(dtype),
        device=device,
        allow_pickle=allow_pickle,
        progress=True,
    )
    _warn(result.plan)
    if as_json:
        typer.echo(json.dumps({"out": str(out)} | result.record))
        return
    record = result.record
    said = [
        f"{result.plan.format} checkpoint in {o.folder_argument(out)}: {record['parameters_after']:,} parameters, "
        f"{result.kept_ratio:.3f} of {record['parameters_before']:,}",
        *changes(result.plan.before, result.plan.after),
        f"{record['seconds']:.0f} s, peak {record['peak_rss_bytes'] / 2**30:.2f} GiB",
    ]
    Console().print("; ".join(said), highlight=False)


@takes_recipe
def plan_command(
    model: o.Model,
    recipe: Recipe,
    dtype: o.DtypeOption = None,
    allow_pickle: o.AllowPickle = False,
    as_json: o.Json = False,
) -> None:
    """Show what `compress` would make of MODEL; no weights are loaded."""
    o.quiet_transformers()
    plan = plan_for(model, recipe, dtype=o.torch_dtype(dtype), allow_pickle=allow_pickle)
    _warn(plan)
    if as_json:
        typer.echo(plan.to_json())
        return
    table = Table("", "before", "after", title=f"{plan.model_type}, {plan.format} output")
    for change in changes(plan.before, plan.after):
        what, _, sizes = change.partition(": ")
        table.add_row(what, *sizes.split(" -> "))
    table.add_row("parameters", f"{plan.parameters_before:,}", f"{plan.parameters_after:,}")
    table.add_row("kept ratio", "1", f"{plan.kept_ratio:.3f}")
    table.add_row("weights on disk", "", f"{plan.bytes_after / 1e6:,.1f} MB")
    if plan.recipe.width is not None:
        table.add_row("bases", "", str(len(plan.starts)))
    table.add_row("peak memory of the job (predicted)", "", f"{plan.peak_bytes / 2**30:.2f} GiB")
    Console().print(table)


def _warn(plan: Plan) -> None:
    for warning in plan.warnings:
        Console(stderr=True, highlight=False).print(f"warning: {warning}", markup=False)
