"""`neuromeld recover`: train a compressed checkpoint on text, images or speech."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from neuromeld.cli import options as o
from neuromeld.cli.console import console
from neuromeld.cli.generated_options import options_of, parameter, with_options
from neuromeld.errors import UserInputError
from neuromeld.planning.recipe import read_yaml
from neuromeld.recovery import RECOVERY_RECIPES, Recovery, parse_recovery, recover
from neuromeld.recovery.settings import LENGTHS, TEACHERS_OWN
from neuromeld.runtime.distributed import is_first_rank, process_group

LORA_RANK = 16
"""Of `--lora` and `--qlora`, where neither the recipe nor `--lora-rank` says another."""

RECOVERY_OPTIONS = options_of(Recovery, "recovery", "", "Recovery")


def takes_recovery(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a recovery, in the place of its argument `settings`."""
    panel = "Recovery"
    parameters = [
        parameter(
            "--recipe", str, "A YAML file, or one of `list recovery-recipes`: quick if not given.", panel, "quick"
        ),
        *(option.signature() for option in RECOVERY_OPTIONS if option.field != "base_bits"),
        parameter("--lora/--no-lora", bool | None, "Train low-rank updates, and merge them.", panel),
        parameter("--qlora", bool, "Train low-rank updates with the layers' matrices held in 4 bits.", panel, False),
    ]
    options = {option.parameter: option for option in RECOVERY_OPTIONS}

    def build(values: dict[str, Any]) -> Recovery:
        fields = {options[name].field: options[name].value(values[name]) for name in values.keys() & options.keys()}
        return _settings(**fields, **{name: value for name, value in values.items() if name not in options})

    return with_options(command, "settings", parameters, build)


@takes_recovery
def recover_command(
    model: Annotated[str, typer.Argument(metavar="DIR", help="The checkpoint to tune: what `compress` wrote.")],
    out: Annotated[Path, typer.Argument(help="The folder to write; it must not exist.")],
    settings: Recovery,
    device: Annotated[str, typer.Option(help="cpu or cuda.", rich_help_panel=o.MACHINE)] = "cpu",
    max_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory limit, as 2GB, of --recipe layerwise: if it would take more, the weights stay on the disk.",
            rich_help_panel=o.MACHINE,
        ),
    ] = None,
    allow_pickle: o.AllowPickle = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Replace the checkpoint in OUT, and discard a different unfinished run.",
            rich_help_panel=o.OUTPUT,
        ),
    ] = False,
    as_json: o.Json = False,
) -> None:
    """Tune the checkpoint in DIR on data of its kind and write it to OUT, in the same shapes.

    Run the same command again to resume an interrupted run.
    """
    o.quiet_transformers()
    o.check_device(device)
    with process_group():
        first = is_first_rank()
        machine: dict[str, Any] = {"device": device, "max_memory": o.num_bytes(max_memory)}
        result = recover(model, settings, out, force=force, allow_pickle=allow_pickle, progress=first, **machine)
    if not first:
        return
    if as_json:
        typer.echo(json.dumps({"out": str(out)} | result.record))
        return
    found = result.record["recovery"]
    held = found.get("matrix_bytes")
    console().print(
        f"recovered checkpoint in {o.folder_argument(out)}: held-out loss {found['held_out']['loss_before']:.3f} "
        f"before, {found['held_out']['loss_after']:.3f} after {found['tokens_seen']:,} tokens; "
        f"{found['parameters_trained']:,} parameters trained; "
        + (f"matrices held in {held['held'] / 1e6:.1f} MB of {held['own_dtype'] / 1e6:.1f} MB; " if held else "")
        + f"{found['seconds']:.0f} s",
        soft_wrap=True,
    )


def _settings(recipe: str, lora: bool | None, qlora: bool, **given: Any) -> Recovery:
    """Return the recipe with every option that was given in the place of its own."""
    stated = read_yaml(recipe, RECOVERY_RECIPES)
    if not isinstance(stated, dict):
        return parse_recovery(stated)
    for one, other in (("batch_tokens", "batch_size"), ("batch_size", "batch_tokens")):
        if given[one] is not None and given[other] is None:
            stated.pop(other, None)
    if any(given[name] is not None for name in LENGTHS):
        stated = {name: value for name, value in stated.items() if name not in LENGTHS}
    if given["teacher"] is not None:  # it has the text and the windows
        stated = {name: value for name, value in stated.items() if name not in TEACHERS_OWN}
    if qlora and lora is not None:
        raise UserInputError(
            f"--qlora and --{'' if lora else 'no-'}lora: the first trains low-rank updates with the matrices held in 4 "
            "bits, the second says otherwise; give one of them"
        )
    if lora or qlora:
        stated |= {"lora_rank": stated.get("lora_rank") or LORA_RANK, "base_bits": 4 if qlora else None}
    elif lora is False:
        if given["lora_rank"] is not None:
            raise UserInputError("--lora-rank is for low-rank updates, which --no-lora turns off; give one of them")
        stated |= {"lora_rank": None, "base_bits": None}
    return parse_recovery(stated | {key: value for key, value in given.items() if value is not None})
