"""`neuromeld recover`: train a compressed checkpoint on text, images or speech."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from neuromeld.cli import options as o
from neuromeld.cli.console import console
from neuromeld.errors import UserInputError
from neuromeld.recover import Recovery, load_recovery, parse_recovery, recover

LORA_RANK = 16
"""Of `--lora` and `--qlora`, where neither the recipe nor `--lora-rank` says another."""


class Schedule(StrEnum):
    """How the learning rate goes down."""

    inverse_sqrt = "inverse_sqrt"
    linear = "linear"
    cosine = "cosine"
    constant = "constant"


def recover_command(
    model: Annotated[str, typer.Argument(metavar="DIR", help="The checkpoint to tune: what `compress` wrote.")],
    out: Annotated[Path, typer.Argument(help="The folder to write; it must not exist.")],
    recipe: Annotated[
        str, typer.Option("--recipe", help="A YAML file, or one of `neuromeld list recovery-recipes`.")
    ] = "quick",
    train: Annotated[
        str | None, typer.Option(help="Named text, pairs or images, or file:PATH; by default the usual for the model.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Updates in all.")] = None,
    batch_tokens: Annotated[int | None, typer.Option(help="Tokens of one update; of images, positions.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples of one update, in the place of tokens.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Parts that they go through the model in.")] = None,
    seqlen: Annotated[int | None, typer.Option(help="Tokens in one window of text.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The highest of the schedule.")] = None,
    schedule: Annotated[Schedule | None, typer.Option(help="How the learning rate goes down.")] = None,
    warmup: Annotated[int | None, typer.Option(help="Steps in which it first goes up.")] = None,
    lora: Annotated[bool | None, typer.Option("--lora/--no-lora", help="Train low-rank updates, and merge them.")] = (
        None
    ),
    qlora: Annotated[
        bool, typer.Option("--qlora", help="The same, with the layers' matrices held in 4 bits meanwhile.")
    ] = False,
    lora_rank: Annotated[
        int | None, typer.Option(help=f"Their rank; {LORA_RANK} with --lora or --qlora alone.")
    ] = None,
    distill_from: Annotated[str | None, typer.Option(help="The original model, to learn from its predictions.")] = None,
    distill_weight: Annotated[float | None, typer.Option(help="Share of the distillation in the loss.")] = None,
    temperature: Annotated[float | None, typer.Option(help="That softens both predictions.")] = None,
    bf16: Annotated[
        bool | None, typer.Option("--bf16/--no-bf16", help="Compute in bfloat16; by default where the device has it.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Draws the data and the low-rank matrices.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    allow_pickle: o.AllowPickle = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the checkpoint in OUT, and discard a different unfinished run.")
    ] = False,
    as_json: o.Json = False,
) -> None:
    """Tune the checkpoint in DIR on data of its kind and write it to OUT, in the same shapes.

    The same command again goes on with a run that was interrupted.
    """
    o.quiet_transformers()
    o.check_device(device)
    settings = _settings(
        recipe,
        lora,
        qlora,
        train=train,
        steps=steps,
        batch_tokens=batch_tokens,
        batch_size=batch_size,
        accumulate=accumulate,
        seqlen=seqlen,
        learning_rate=learning_rate,
        schedule=schedule and schedule.value,
        warmup=warmup,
        lora_rank=lora_rank,
        distill_from=distill_from,
        distill_weight=distill_weight,
        temperature=temperature,
        bf16=bf16,
        seed=seed,
    )
    result = recover(model, settings, out, force=force, device=device, allow_pickle=allow_pickle, progress=True)
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
    """The recipe with every option that was given in the place of its own."""
    stated = load_recovery(recipe).model_dump(exclude_unset=True)
    for one, other in (("batch_tokens", "batch_size"), ("batch_size", "batch_tokens")):
        if given[one] is not None and given[other] is None:
            stated.pop(other, None)
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
