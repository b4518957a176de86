"""`neuromeld compress` and its dry run, `neuromeld plan`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from neuromeld.api import choose, plan
from neuromeld.archs.sizes import changes
from neuromeld.checkpoint import check_free
from neuromeld.checkpoint.export.forms import FORMS
from neuromeld.checkpoint.source import ModelSource, locate
from neuromeld.cli import options as o
from neuromeld.cli.console import console
from neuromeld.cli.export import UNTIE
from neuromeld.cli.recipes import Request, takes_recipe
from neuromeld.errors import CheckpointError, UserInputError
from neuromeld.evaluation.throughput import throughput_of
from neuromeld.jobs.choosing import ChoiceJob
from neuromeld.jobs.compression import CompressionJob
from neuromeld.jobs.export import NOT_WRITTEN, Exports
from neuromeld.jobs.large_embedding import said_of_embedding
from neuromeld.jobs.opening import check_alone, open_job
from neuromeld.jobs.recovered import compress_and_recover
from neuromeld.jobs.several import SeveralJob
from neuromeld.planning import Choice
from neuromeld.planning.allowed import said_of_loss
from neuromeld.planning.duration import THROUGHPUTS, JobTime, load_throughput, said, time_of
from neuromeld.planning.limits import Limits
from neuromeld.planning.plan import Plan
from neuromeld.recovery import recovery_of
from neuromeld.runtime.distributed import is_first_rank, own_device

Out = Annotated[Path, typer.Argument(help="The folder to write; it must not exist.")]
Evaluate = Annotated[
    bool,
    typer.Option(
        "--evaluate/--no-evaluate", help="Measure a little perplexity, and write samples.", rich_help_panel=o.OUTPUT
    ),
]
Formats = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="FORMS",
        help=f"Export the result into OUT-FORM, too: {', '.join(FORMS)}, or a type of gguf, as gguf:q8_0; several with "
        "commas between.",
        rich_help_panel=o.OUTPUT,
    ),
]
Untie = Annotated[
    bool, typer.Option("--untie", help=f"With --format: {UNTIE[0].lower()}{UNTIE[1:]}", rich_help_panel=o.OUTPUT)
]
Recover = Annotated[
    str | None,
    typer.Option(
        "--recover",
        metavar="LENGTH",
        help="Train the result towards MODEL: for a time (30min), on tokens (2M), or by a recovery recipe.",
        rich_help_panel=o.OUTPUT,
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Replace the checkpoint that is in OUT.", rich_help_panel=o.OUTPUT)
]


Throughput_ = Annotated[
    str | None,
    typer.Option(
        "--throughput",
        metavar="NAME",
        help=f"Tell the time for another machine: {', '.join(THROUGHPUTS)}, or a YAML file with what `plan --json` "
        "prints there; by default this one is measured, once.",
        rich_help_panel=o.MACHINE,
    ),
]
Ranks = Annotated[
    int,
    typer.Option(
        "--ranks",
        min=1,
        max=2**16,
        help="Processes that share the data, each on such a device; memory is that of one.",
        rich_help_panel=o.MACHINE,
    ),
]


@takes_recipe
@o.takes_machine
def compress_command(
    model: o.Model,
    out: Out,
    asked: Request,
    machine: o.Machine,
    evaluate: Evaluate = True,
    formats: Formats = None,
    untie: Untie = False,
    recover: Recover = None,
    force: Force = False,
    as_json: o.Json = False,
) -> None:
    """Make MODEL smaller and write the checkpoint to OUT; with several budgets, to OUT-0.9, OUT-0.8 ..."""
    recovery = None if recover is None else recovery_of(recover, model)
    located = locate(model, allow_pickle=machine.allow_pickle)
    settings: dict[str, Any] = {"dtype": machine.dtype, "device": own_device(machine.device)}
    settings |= {"force": force, "progress": True}
    exports = _exports(out, formats, force=force, untie=untie)
    if asked.further:
        _check_one_by_one(formats, recover)
        several = SeveralJob(_choice_job(located, asked, settings), asked.further, out, evaluate=evaluate)
        _print_several(several.run(), as_json=as_json)
        return
    check_free(out, force=force, source=model)
    with open_job(out) as journal:
        first, recipe, choice = is_first_rank(), asked.recipe, None
        if asked.budget is not None:
            if first and not as_json:
                _say(said_of_embedding(located, asked.calibration, asked.budget))
            choice = _choice_job(located, asked, settings | {"journal": journal}).run()
            recipe = choice.recipe
            if first and not as_json:
                console().print(_candidates(choice))
        assert recipe is not None
        settings |= {"choice": choice, "evaluate": evaluate}
        settings |= {"max_memory": asked.max_memory, "device_memory": asked.device_memory}
        job = CompressionJob(located, recipe, out, journal, exports=exports, **settings)
        _, record = job.run() if recovery is None else compress_and_recover(job, model, recovery)
    if not first:
        return
    _warn(record.get("warnings", []))
    exported = record.get("exports", {})
    if as_json:
        typer.echo(json.dumps({"out": str(out)} | record))
    else:
        console().print("; ".join([*_said(out, record), *(f"{form}: {said}" for form, said in exported.items())]))
    if failed := [form for form, said in exported.items() if said.startswith(NOT_WRITTEN)]:
        raise CheckpointError(f"{out} is written, and not as {', '.join(failed)}: {exported[failed[0]]}")


def _exports(out: Path, formats: str | None, *, force: bool, untie: bool) -> Exports | None:
    """Return what writes the forms that are asked for, checked."""
    if formats is None:
        if untie:
            raise UserInputError("--untie is for --format, whose engines load no FFN as shared: name a form, as gguf")
        return None
    exports = Exports(out, tuple(formats.split(",")), force, untie)
    exports.check()
    return exports


def _choice_job(located: ModelSource, asked: Request, settings: dict[str, Any]) -> ChoiceJob:
    assert asked.budget is not None
    job = ChoiceJob(located, asked.budget, asked.calibration, asked.output, **settings)
    limits = Limits(asked.max_memory, asked.device_memory)
    return replace(job, vocab_from=asked.vocab_from, effort=asked.effort, limits=limits, rank_after=asked.rank_after)


def _check_one_by_one(formats: str | None, recover: str | None) -> None:
    """Raise `UserInputError` for what is not done to several results at once."""
    for flag, given, command in (("--format", formats, "export"), ("--recover", recover, "recover")):
        if given is not None:
            raise UserInputError(f"{flag} {given} is for one budget; `neuromeld {command}` takes each of the folders")


def _print_several(written: Mapping[Path, dict[str, Any]], *, as_json: bool) -> None:
    if not written:
        return
    if as_json:
        typer.echo(json.dumps({"results": [{"out": str(out)} | record for out, record in written.items()]}))
        return
    for out, record in written.items():
        _warn(record.get("warnings", []))
        console().print("; ".join(_said(out, record)))


def _said(out: Path, record: dict[str, Any]) -> list[str]:
    """Return what was written, what changed, what it lost and what it took."""
    seconds = record["seconds"] + record.get("recovery", {}).get("seconds", 0)
    return [
        f"{record['format']} checkpoint in {o.folder_argument(out)}: {record['parameters_after']:,} parameters, "
        f"{record['kept_ratio']:.3f} of {record['parameters_before']:,}",
        *record.get("changes", []),
        *(_measured(entry) for entry in record.get("evaluation", [])),
        *([said_of_loss(record["max_loss"])] if "max_loss" in record else []),
        *([_recovered(record["recovery"]["held_out"])] if "recovery" in record else []),
        f"{seconds:.0f} s, peak {record['peak_rss_bytes'] / 2**30:.2f} GiB",
    ]


def _recovered(held_out: dict[str, Any]) -> str:
    before, after, whole = (held_out[f"loss_{when}"] for when in ("before", "after", "original"))
    return f"held-out loss {before:.3f} -> {after:.3f} by training ({whole:.3f} the original)"


def _measured(entry: dict[str, Any]) -> str:
    """Return the perplexity before and after, or bits per byte where the tokens are others."""
    if "perplexity_before" in entry:
        return f"perplexity {entry['perplexity_before']:.2f} -> {entry['perplexity']:.2f} on {entry['tokens']:,} tokens"
    before, after = entry.get("bits_per_byte_before"), entry.get("bits_per_byte")
    change = "" if before is None or after is None else f"bits per byte {before:.4f} -> {after:.4f}, "
    return f"{change}perplexity of the new tokens {entry['perplexity']:.2f}"


@takes_recipe
@o.takes_machine
def plan_command(
    model: o.Model,
    asked: Request,
    machine: o.Machine,
    throughput: Throughput_ = None,
    ranks: Ranks = 1,
    as_json: o.Json = False,
) -> None:
    """Show what `compress` would make of MODEL and what that takes of memory, disk and time, and write nothing.

    Without a budget no weights are loaded.  With one, candidates are built in memory and measured.
    """
    if asked.further:
        raise UserInputError("several budgets are for compress; plan shows one: give --keep one share")
    recipe, choice = asked.recipe, None
    if asked.budget is not None:
        if asked.max_memory is not None or asked.device_memory is not None:
            raise UserInputError(
                "plan builds the candidates of a budget in memory and keeps none: with --max-memory or --device-memory "
                "use compress"
            )
        settings = machine.arguments | {"progress": True, "effort": asked.effort}
        settings |= {"vocab_from": asked.vocab_from, "rank_after": asked.rank_after}
        choice = choose(model, asked.budget, asked.calibration, asked.output, **settings)
        recipe = choice.recipe
        if not as_json:
            console().print(_candidates(choice))
            _say([] if choice.max_loss is None else [said_of_loss(choice.record_of_loss())])
    assert recipe is not None
    limits = {"max_memory": asked.max_memory, "device_memory": asked.device_memory}
    planned = plan(model, recipe, dtype=machine.dtype, allow_pickle=machine.allow_pickle, **limits)
    _warn([*planned.warnings, *planned.foreseen, *(choice.warnings if choice else [])])
    located = locate(model, allow_pickle=machine.allow_pickle)
    told = [*planned.told, *said_of_embedding(located, asked.calibration, asked.budget)]
    if planned.memory_mapped or planned.on_device is not None:
        check_alone(ranks)
    speed = throughput_of(machine.device) if throughput is None else load_throughput(throughput)
    duration = time_of(planned.work, speed, ranks)
    if as_json:
        found = json.loads(planned.to_json()) | {"told": told, "throughput": speed.model_dump(), "ranks": ranks}
        found |= {"time": asdict(duration) | {"seconds": duration.seconds, "plain_passes": planned.work.passes}}
        found |= {"candidates": choice.record()} if choice else {}
        found |= {"max_loss": choice.record_of_loss()} if choice and choice.max_loss else {}
        typer.echo(json.dumps(found))
        return
    console().print(_planned(planned, duration))
    _say([*told, f"The time is that of {_times(ranks)}{speed.device}; starting and reading data apart."])


def _planned(planned: Plan, duration: JobTime) -> Table:
    """Return the sizes before and after, and what the job takes."""
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
    if planned.on_device is not None:
        table.add_row("peak memory of the device (predicted)", "", f"{planned.on_device.peak_bytes / 2**30:.2f} GiB")
    table.add_row("time of the job (predicted)", "", said(duration.seconds))
    if duration.looking > duration.seconds / 4:
        table.add_row("of which looking at both models, as without --no-evaluate", "", said(duration.looking))
    if planned.memory_mapped:
        table.caption = "the weights stay on the disk"
    return table


def _times(ranks: int) -> str:
    return f"{ranks} times " if ranks > 1 else ""


def _candidates(choice: Choice) -> Table:
    """Return all candidates with their excess loss, and the time that they take where it was measured."""
    timed, trained = choice.objective == "latency", choice.chosen.tuned_loss is not None
    head = [
        "candidate",
        "parameters",
        "FLOPs",
        *(["time"] if timed else []),
        "predicted",
        "from few tokens",
        "from all",
        *(["after training"] if trained else []),
        "± to the least",
    ]
    table = Table(*head, title="excess loss, nats per token")
    for c in choice.candidates:
        measured = [*([c.latency_ratio] if timed else []), c.predicted, c.first_loss, c.excess_loss]
        measured += [*([c.tuned_loss] if trained else []), c.uncertainty]
        name = f"{c.name} (chosen)" if c.chosen else c.name
        numbers = ("" if value is None else f"{value:.3f}" for value in measured)
        table.add_row(name, f"{c.kept_ratio:.3f}", f"{c.flops_ratio:.3f}", *numbers)
    return table


def _say(told: Sequence[str]) -> None:
    for line in told:
        console().print(line)


def _warn(warnings: Sequence[str]) -> None:
    for warning in warnings:
        console(stderr=True).print(f"warning: {warning}")
