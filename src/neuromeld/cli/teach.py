"""`neuromeld teach`: write down what a model predicts, for what is trained to follow it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from neuromeld.cli import options as o
from neuromeld.cli.console import console
from neuromeld.cli.generated_options import with_settings
from neuromeld.evaluation import bytes_on_disk
from neuromeld.recovery.stored import KEY
from neuromeld.recovery.teaching import Teaching, teach


@with_settings("settings", Teaching, "Teacher")
def teach_command(
    model: o.Model,
    out: Annotated[Path, typer.Argument(help="The folder to write; it must not exist.")],
    settings: Teaching,
    device: Annotated[str, typer.Option(help="cpu or cuda.", rich_help_panel=o.MACHINE)] = "cpu",
    allow_pickle: o.AllowPickle = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace the folder, and discard an unfinished run.", rich_help_panel=o.OUTPUT),
    ] = False,
    as_json: o.Json = False,
) -> None:
    """Write what MODEL predicts on a text to OUT, once, for any number of `neuromeld recover --teacher OUT`.

    Run the same command again to resume an interrupted run.
    """
    o.quiet_transformers()
    o.check_device(device)
    result = teach(model, settings, out, force=force, device=device, allow_pickle=allow_pickle, progress=True)
    if as_json:
        typer.echo(json.dumps({"out": str(out)} | result.record))
        return
    facts = result.record[KEY]
    console().print(
        f"teacher in {o.folder_argument(out)}: {facts['top']} log-probabilities of each of "
        f"{facts['windows'] * facts['seqlen']:,} tokens, {bytes_on_disk(out) / 1e6:.0f} MB; {facts['seconds']:.0f} s",
        soft_wrap=True,
    )
