"""`neuromeld benchmark`: measure a declared grid, row by row."""

import json
from itertools import groupby
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any

import typer
from rich.table import Table

from neuromeld.benchmark import Bench, Grid, Line, Results, draw_results, excess_loss, load_grid, recovered_loss
from neuromeld.benchmark.grid import DENSE, Case, Protocol
from neuromeld.cli import options as o
from neuromeld.cli.console import console
from neuromeld.errors import NeuromeldError, UserInputError
from neuromeld.registry import unknown_name
from neuromeld.runtime.workspace import write_text
from neuromeld.runtime.yaml_text import parse_yaml


def benchmark_command(
    grid: Annotated[Path, typer.Argument(metavar="GRID.yaml", help="What to measure: see docs/benchmarks.md.")],
    out: Annotated[
        Path | None, typer.Option(help="The file of results, .jsonl; results/GRID.jsonl beside GRID if not given.")
    ] = None,
    rows: Annotated[str | None, typer.Option(help="Only these rows, with ; between; all if not given.")] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Another value for a key of the grid.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what there is to measure, and stop.")] = False,
    device: o.Device = "cpu",
    as_json: o.Json = False,
) -> None:
    """Measure every row of a grid of models, recipes, budgets and seeds.

    Each number is appended to the results at once; what is there already is not measured again. The plot is written
    beside them.
    """
    o.quiet_transformers()
    o.check_device(device)
    asked = load_grid(grid, _changes(change or []))
    results = Results(out or grid.parent / "results" / f"{grid.stem}.jsonl")
    cases = _chosen(asked, rows)
    if dry_run:
        _show_plan(cases, results, as_json=as_json)
        return
    results.path.parent.mkdir(parents=True, exist_ok=True)
    found, refused = _measure(cases, results, device, show=not as_json)
    drawing = draw_results(results, found)
    if drawing is not None:
        plot = results.path.with_suffix(".svg")
        write_text(plot, drawing)
        console(stderr=True).print(f"plot in {o.folder_argument(plot)}", soft_wrap=True)
    if as_json:
        lines = [line.model_dump(exclude_none=True) | _compared(results, line) for line in found]
        typer.echo(json.dumps({"results": lines, "refused": refused}))
    if refused:
        raise typer.Exit(1)


def _measure(
    cases: list[Case], results: Results, device: str, *, show: bool
) -> tuple[list[Line], list[dict[str, str | float | None]]]:
    """Return the lines of all cases, measured where they are missing, and what could not be had, with the reason."""
    found, refused = [], []
    for protocol, group in groupby(cases, key=lambda case: case.protocol):
        bench = Bench(protocol, device=device, progress=True)
        lines = []
        for case in group:
            line = results.find(case)
            if line is None:
                try:
                    line = bench.measure(case)
                except NeuromeldError as error:
                    if case.row is None:
                        raise
                    refused.append({"row": case.name, "keep": case.keep, "model": protocol.model, "why": str(error)})
                    console(stderr=True).print(f"{case.name}: refused: {error}")
                    continue
                results.add(line)
            lines.append(line)
        if show:
            _show(results, lines, protocol)
        found += lines
    return found, refused


def _changes(given: list[str]) -> dict[str, Any]:
    """`KEY=VALUE` pairs, the values read as YAML."""
    changes = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UserInputError(f"--set {text} must be KEY=VALUE, as in --set keep=[0.9,0.8]")
        changes[key] = parse_yaml(value, f"--set {key}: {shorten(value, 80)}")
    return changes


def _chosen(grid: Grid, rows: str | None) -> list[Case]:
    if rows is None:
        return list(grid.cases())
    wanted = [name.strip() for name in rows.split(";")]
    for name in wanted:
        if name not in (DENSE, *grid.rows):
            raise UserInputError("--rows: " + unknown_name("row", name, list(grid.rows)))
    return [case for case in grid.cases() if case.name in (DENSE, *wanted)]


def _show_plan(cases: list[Case], results: Results, *, as_json: bool) -> None:
    plan = []
    for protocol, group in groupby(cases, key=lambda case: case.protocol):
        bench = Bench(protocol)
        for case in group:
            entry: dict[str, Any] = {"row": case.name, "keep": case.keep, "model": protocol.model}
            entry |= {"seed": protocol.seed, "measured": results.find(case) is not None}
            try:
                entry["parameters"] = bench.predicted_parameters(case)
            except NeuromeldError as error:
                entry |= {"parameters": None, "why": str(error)}
            plan.append(entry)
    if as_json:
        typer.echo(json.dumps({"plan": plan}))
        return
    table = Table("row", "keep", "model", "seed", "parameters", "to do")
    for entry in plan:
        parameters = "" if entry["parameters"] is None else f"{entry['parameters']:,}"
        to_do = f"refused: {entry['why']}" if "why" in entry else "" if entry["measured"] else "measure"
        keep = "" if entry["keep"] is None else f"{entry['keep']:g}"
        table.add_row(entry["row"], keep, entry["model"], str(entry["seed"]), parameters, to_do)
    console().print(table)


def _show(results: Results, found: list[Line], protocol: Protocol) -> None:
    names = list(dict.fromkeys(name for line in found for name in line.scores))
    shown = [name.replace("_", " ") for name in names]
    after = [*(f"{name}, tuned" for name in shown), "excess then"] if protocol.recovery else []
    table = Table("row", "asked", "parameters kept", *shown, "excess loss (nats)", *after, "seconds")
    for line in found:
        compared = _compared(results, line)
        then = line.recovered.scores if line.recovered else {}
        table.add_row(
            line.row,
            "" if line.keep is None else f"{line.keep:g}",
            f"{compared['kept_ratio']:.3f}",
            *(_number(line.scores.get(name)) for name in names),
            _number(compared.get("excess_loss")),
            *([*(_number(then.get(name)) for name in names), _number(compared.get("recovered_loss"))] if after else []),
            "" if line.seconds is None else f"{line.seconds:.0f}",
        )
    out = console()
    out.print(table)
    out.print("protocol: " + ", ".join(f"{k} {v}" for k, v in protocol.model_dump(exclude_none=True).items()))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"


def _compared(results: Results, line: Line) -> dict[str, float]:
    dense = results.dense(line)
    assert dense is not None, "the dense model is measured first"
    losses = {"excess_loss": excess_loss(line, dense), "recovered_loss": recovered_loss(line, dense)}
    found = {name: value for name, value in losses.items() if value is not None}
    return {"kept_ratio": line.parameters / dense.parameters} | found
