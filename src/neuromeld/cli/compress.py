"""`neuromeld compress` and its dry run, `neuromeld plan`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from neuromeld.api import choose, compress, plan
from neuromeld.archs.sizes import changes
from neuromeld.checkpoint import check_free
from neuromeld.cli import options as o
from neuromeld.cli.console import console
from neuromeld.cli.recipes import Request, takes_recipe
from neuromeld.errors import UserInputError
from neuromeld.jobs.opening import open_job
from neuromeld.planning import Choice
from neuromeld.planning.recipe import Recipe
from neuromeld.runtime.distributed import is_first_rank
from neuromeld.runtime.journal import NO_JOURNAL, Journal


@takes_recipe
def compress_command(
    model: o.Model,
    out: Annotated[Path, typer.Argument(help="The folder to write; it must not exist.")],
    asked: Request,
    evaluate: Annotated[
        bool,
        typer.Option(
            "--evaluate/--no-evaluate",
            help="Measure a little perplexity, and write samples.",
            rich_help_panel=o.OUTPUT,
        ),
    ] = True,
    device: o.Device = "cpu",
    dtype: o.DtypeOption = None,
    allow_pickle: o.AllowPickle = False,
    max_memory: o.MaxMemory = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the checkpoint that is in OUT.", rich_help_panel=o.OUTPUT)
    ] = False,
    as_json: o.Json = False,
) -> None:
    """Make MODEL smaller and write the checkpoint to OUT."""
    o.quiet_transformers()
    o.check_device(device)
    check_free(out, force=force, source=model)
    limit = _limit(max_memory, asked)
    settings: dict[str, Any] = {"dtype": o.torch_dtype(dtype), "device": device, "allow_pickle": allow_pickle}
    with open_job(out) as journal:
        first = is_first_rank()
        recipe, choice = _settle(model, asked, settings, show=first and not as_json, journal=journal, force=force)
        settings |= {"force": force, "choice": choice, "journal": journal, "max_memory": limit}
        result = compress(model, recipe, out, evaluate=evaluate, progress=True, **settings)
    if not first:
        return
    _warn(result.record.get("warnings", []))
    if as_json:
        typer.echo(json.dumps({"out": str(out)} | result.record))
        return
    record = result.record
    said = [
        f"{result.plan.format} checkpoint in {o.folder_argument(out)}: {record['parameters_after']:,} parameters, "
        f"{result.kept_ratio:.3f} of {record['parameters_before']:,}",
        *changes(result.plan.before, result.plan.after),
        *(
            f"perplexity {e['perplexity_before']:.2f} -> {e['perplexity']:.2f} on {e['tokens']:,} tokens"
            for e in record.get("evaluation", [])
        ),
        f"{record['seconds']:.0f} s, peak {record['peak_rss_bytes'] / 2**30:.2f} GiB",
    ]
    console().print("; ".join(said))


@takes_recipe
def plan_command(
    model: o.Model,
    asked: Request,
    device: Annotated[
        str | None, typer.Option(help="Of a budget: where candidates are measured, as cpu or cuda; by default cpu.")
    ] = None,
    dtype: o.DtypeOption = None,
    allow_pickle: o.AllowPickle = False,
    max_memory: o.MaxMemory = None,
    as_json: o.Json = False,
) -> None:
    """Show what `compress` would make of MODEL, and write nothing.

    Without a budget no weights are loaded.  With one, candidates are built in memory and measured.
    """
    o.quiet_transformers()
    o.check_device(device or "cpu")
    limit = _limit(max_memory, asked)
    if device is not None and asked.budget is None:
        raise UserInputError(
            f"--device {device} is for a budget, whose candidates are built and measured; a recipe is planned from the "
            "config alone: leave it out"
        )
    settings: dict[str, Any] = {"dtype": o.torch_dtype(dtype), "device": device or "cpu", "allow_pickle": allow_pickle}
    recipe, choice = _settle(model, asked, settings, show=not as_json)
    planned = plan(model, recipe, dtype=o.torch_dtype(dtype), allow_pickle=allow_pickle, max_memory=limit)
    _warn([*planned.warnings, *planned.foreseen, *(choice.warnings if choice else [])])
    if as_json:
        typer.echo(json.dumps(json.loads(planned.to_json()) | ({"candidates": choice.record()} if choice else {})))
        return
    table = Table("", "before", "after", title=f"{planned.model_type}, {planned.format} output")
    for change in changes(planned.before, planned.after):
        what, _, sizes = change.partition(": ")
        table.add_row(what, *sizes.split(" -> "))
    table.add_row("parameters", f"{planned.parameters_before:,}", f"{planned.parameters_after:,}")
    table.add_row("kept ratio", "1", f"{planned.kept_ratio:.3f}")
    table.add_row("weights on disk", "", f"{planned.bytes_after / 1e6:,.1f} MB")
    if len(planned.after.basis_starts) > 1:
        table.add_row("bases of the residual stream", "1", str(len(planned.after.basis_starts)))
    table.add_row("peak memory of the job (predicted)", "", f"{planned.peak_bytes / 2**30:.2f} GiB")
    table.add_row("disk space of the job (predicted)", "", f"{planned.disk_bytes / 2**30:.2f} GiB")
    if planned.memory_mapped:
        table.caption = "the weights stay on the disk"
    console().print(table)


def _limit(max_memory: str | None, asked: Request) -> int | None:
    """The memory that a job may take, in bytes."""
    if max_memory is not None and asked.budget is not None:
        raise UserInputError(
            "--max-memory needs stages that are named, as by --ffn-ratio: candidates for a budget are built in memory"
        )
    return o.num_bytes(max_memory)


def _settle(
    model: str,
    asked: Request,
    settings: dict[str, Any],
    *,
    show: bool,
    journal: Journal = NO_JOURNAL,
    force: bool = False,
) -> tuple[Recipe, Choice | None]:
    """The recipe that was asked for, or the planner's choice for the budget."""
    if asked.budget is None:
        assert asked.recipe is not None
        return asked.recipe, None
    settings = settings | {"journal": journal, "force": force}
    choice = choose(model, asked.budget, asked.calibration, asked.output, progress=True, **settings)
    if show:
        console().print(_candidates(choice))
    return choice.recipe, choice


def _candidates(choice: Choice) -> Table:
    """All candidates with their excess loss, and the time that they take where it was measured."""
    timed = choice.objective == "latency"
    head = [
        "candidate",
        "parameters",
        "FLOPs",
        *(["time"] if timed else []),
        "predicted",
        "from few tokens",
        "from all",
        "± to the least",
    ]
    table = Table(*head, title="excess loss, nats per token")
    for c in choice.candidates:
        measured = [c.latency_ratio, c.predicted, c.first_loss, c.excess_loss, c.uncertainty][0 if timed else 1 :]
        name = f"{c.name} (chosen)" if c.chosen else c.name
        numbers = ("" if value is None else f"{value:.3f}" for value in measured)
        table.add_row(name, f"{c.kept_ratio:.3f}", f"{c.flops_ratio:.3f}", *numbers)
    return table


def _warn(warnings: Sequence[str]) -> None:
    for warning in warnings:
        console(stderr=True).print(f"warning: {warning}")
