"""`neuromeld compress` and its dry run, `neuromeld plan`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from neuromeld.cli import options as o
from neuromeld.compress import compress, plan_for
from neuromeld.plan import Plan


def compress_command(
    model: o.Model,
    out: Annotated[Path, typer.Argument(help="The folder to write; it must not exist.")],
    recipe: o.RecipeOption = o.DEFAULT_RECIPE,
    hidden_ratio: o.HiddenRatio = None,
    hidden_size: o.HiddenSize = None,
    selector: o.Selector = None,
    merge: o.Merge = None,
    decoder: o.Decoder = None,
    regularisation: o.Regularisation = None,
    weighting: o.Weighting = None,
    basis: o.Basis = None,
    refit: o.Refit = None,
    stock: o.Stock = None,
    calibration: o.CalibrationText = None,
    calibration_tokens: o.CalibrationTokens = None,
    seqlen: o.SequenceLength = None,
    seed: o.Seed = None,
    device: o.Device = "cpu",
    dtype: o.DtypeOption = None,
    allow_pickle: o.AllowPickle = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the checkpoint that is in OUT.")] = False,
    as_json: o.Json = False,
) -> None:
    """Narrow MODEL and write the smaller checkpoint to OUT."""
    o.quiet_transformers()
    o.check_device(device)
    chosen = o.build_recipe(
        recipe,
        _width(hidden_ratio, hidden_size, selector, merge, decoder, regularisation, weighting, basis, refit),
        {"text": calibration, "tokens": calibration_tokens, "seqlen": seqlen, "seed": seed},
        stock,
    )
    result = compress(
        model,
        chosen,
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
    Console().print(
        f"{result.plan.format} checkpoint in {o.folder_argument(out)}: {record['parameters_after']:,} parameters, "
        f"{result.kept_ratio:.3f} of {record['parameters_before']:,}; hidden size {record['hidden_size_after']} of "
        f"{record['hidden_size_before']}; {record['seconds']:.0f} s, peak {record['peak_rss_bytes'] / 2**30:.2f} GiB",
        highlight=False,
    )


def plan_command(
    model: o.Model,
    recipe: o.RecipeOption = o.DEFAULT_RECIPE,
    hidden_ratio: o.HiddenRatio = None,
    hidden_size: o.HiddenSize = None,
    selector: o.Selector = None,
    merge: o.Merge = None,
    decoder: o.Decoder = None,
    regularisation: o.Regularisation = None,
    weighting: o.Weighting = None,
    basis: o.Basis = None,
    refit: o.Refit = None,
    stock: o.Stock = None,
    calibration: o.CalibrationText = None,
    calibration_tokens: o.CalibrationTokens = None,
    seqlen: o.SequenceLength = None,
    seed: o.Seed = None,
    dtype: o.DtypeOption = None,
    allow_pickle: o.AllowPickle = False,
    as_json: o.Json = False,
) -> None:
    """Show what `compress` would make of MODEL; no weights are loaded."""
    o.quiet_transformers()
    chosen = o.build_recipe(
        recipe,
        _width(hidden_ratio, hidden_size, selector, merge, decoder, regularisation, weighting, basis, refit),
        {"text": calibration, "tokens": calibration_tokens, "seqlen": seqlen, "seed": seed},
        stock,
    )
    plan = plan_for(model, chosen, dtype=o.torch_dtype(dtype), allow_pickle=allow_pickle)
    _warn(plan)
    if as_json:
        typer.echo(plan.to_json())
        return
    table = Table("", "before", "after", title=f"{plan.model_type}, {plan.format} output")
    table.add_row("hidden size", str(plan.hidden_size_before), str(plan.hidden_size_after))
    table.add_row("parameters", f"{plan.parameters_before:,}", f"{plan.parameters_after:,}")
    table.add_row("kept ratio", "1", f"{plan.kept_ratio:.3f}")
    table.add_row("weights on disk", "", f"{plan.bytes_after / 1e6:,.1f} MB")
    table.add_row("bases", "", str(len(plan.starts)))
    table.add_row("peak memory of the job (predicted)", "", f"{plan.peak_bytes / 2**30:.2f} GiB")
    Console().print(table)


def _width(*values: Any) -> dict[str, Any]:
    keys = (
        "hidden_ratio", "hidden_size", "selector", "merge", "decoder", "regularisation", "weighting", "basis", "refit",
    )  # fmt: skip
    return dict(zip(keys, values, strict=True))


def _warn(plan: Plan) -> None:
    for warning in plan.warnings:
        Console(stderr=True, highlight=False).print(f"warning: {warning}", markup=False)
