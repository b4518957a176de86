"""`neuromeld frontier`: what each size of a model costs, from one run."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from neuromeld.checkpoint.source import locate
from neuromeld.cli import options as o
from neuromeld.cli.console import console
from neuromeld.cli.generated_options import with_settings
from neuromeld.cli.recipes import EFFORT_HELP, shares
from neuromeld.data.calibration import Calibration
from neuromeld.data.mixture import listed_sources, parse_mixture
from neuromeld.data.sources import unknown_source
from neuromeld.errors import UserInputError
from neuromeld.jobs.choosing import ChoiceJob
from neuromeld.jobs.frontier import FrontierJob
from neuromeld.jobs.opening import open_job
from neuromeld.modalities.request import EvaluationRequest
from neuromeld.planning import Budget
from neuromeld.planning.effort import EFFORTS, STANDARD
from neuromeld.report import render_frontier
from neuromeld.report.frontier import Frontier, head_of, rows_of
from neuromeld.runtime.distributed import is_first_rank, own_device
from neuromeld.runtime.workspace import write_text
from neuromeld.settings import validate

SHARES = "0.95,0.9,0.8,0.7,0.6,0.5"
SUFFIXES = (".html", ".json")
OTHERS = ("news-sample", "wikipedia-sample")
"""Kinds of text, the first of which that is not calibrated on is measured, too."""


def _asked(name: str) -> str:
    """Return what `evaluate` says of an option that is the same here."""
    return str(EvaluationRequest.model_fields[name].description)


@with_settings("calibration", Calibration, "Calibration")
@o.takes_machine
def frontier_command(
    models: Annotated[list[str], typer.Argument(help="Models to measure, all in one picture.")],
    calibration: Calibration,
    machine: o.Machine,
    keep: Annotated[str, typer.Option(help="Shares of the parameters to measure, with commas between.")] = SHARES,
    text: Annotated[
        str | None,
        typer.Option(
            help="Texts of other kinds to show the loss on, with commas between; news-sample if not given, or "
            "wikipedia-sample where that is calibrated on."
        ),
    ] = None,
    tasks: Annotated[str | None, typer.Option(help=_asked("tasks"))] = None,
    include_path: Annotated[Path | None, typer.Option(help=_asked("include_path"))] = None,
    limit: Annotated[int | None, typer.Option(help=_asked("limit"))] = None,
    speed: Annotated[bool, typer.Option("--speed", help="Time a request, too, over the original's.")] = False,
    stock: Annotated[bool, typer.Option("--stock", help="Only what loads in plain transformers.")] = False,
    effort: Annotated[str, typer.Option(help=EFFORT_HELP)] = STANDARD.name,
    out: Annotated[Path, typer.Option(help="The file to write: .html for a page with a picture, or .json.")] = Path(
        "frontier.html"
    ),
    force: Annotated[bool, typer.Option("--force", help="Replace the file, and discard an unfinished run.")] = False,
    as_json: o.Json = False,
) -> None:
    """Measure what MODELS lose at each of several sizes, and write a page with a picture; no model is written."""
    keeps = shares(keep)
    budgets = [Budget(keep=share) for share in keeps]
    o.check_writable("--out", out, SUFFIXES)
    if out.exists() and not force:
        raise UserInputError(f"{out} exists; name another file, or pass --force to replace it")
    settings: dict[str, Any] = {"dtype": machine.dtype, "device": own_device(machine.device)}
    settings |= {"force": force, "progress": True, "effort": EFFORTS[effort].name}
    settings |= {"others": _other_texts(text, calibration)}
    given = {"tasks": tasks, "include_path": include_path, "limit": limit}
    given = {name: value for name, value in given.items() if value is not None}
    asked = validate(EvaluationRequest, given | {"speed": speed}, "request")
    sources = [locate(model, allow_pickle=machine.allow_pickle) for model in models]
    with open_job(out) as journal:
        found = []
        for source in sources:
            job = ChoiceJob(source, budgets[0], calibration, "stock" if stock else "auto", **settings)
            found.append(FrontierJob(job, keeps, journal, asked).run())
        if not is_first_rank():
            return
        write_text(out, render_frontier(found) if out.suffix == ".html" else json.dumps({"models": found}) + "\n")
    if as_json:
        typer.echo(json.dumps({"out": str(out), "models": found}))
        return
    for one in found:
        console().print(_table(one))
        if one["out_of_reach"]:
            console().print(f"no candidate meets {', '.join(f'{keep:g}' for keep in one['out_of_reach'])}")
    console().print(f"written to {o.folder_argument(out)}", soft_wrap=True)


def _other_texts(given: str | None, calibration: Calibration) -> tuple[str, ...]:
    """Return the texts beside the validation text, by default one of another kind."""
    if given is None:
        calibrated = [part.source for part in parse_mixture(calibration.source)] if calibration.source else []
        return next(((text,) for text in OTHERS if text not in calibrated), ())
    texts = listed_sources(given)
    if problems := [problem for text in texts for problem in unknown_source(text)]:
        raise UserInputError(f"--text {given}: {'; '.join(problems)}")
    return tuple(texts)


def _table(one: Frontier) -> Table:
    table = Table(*head_of(one), title=str(one["model"]))
    for row in rows_of(one):
        table.add_row(*row)
    return table
