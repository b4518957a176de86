"""Options that several commands share, and how they add up to a recipe."""

from enum import StrEnum
from logging import ERROR, getLogger
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers.utils import logging

from neuromeld.errors import UserInputError
from neuromeld.recipe import Recipe, load_recipe, parse_recipe


class Dtype(StrEnum):
    """Floating-point types a model can be loaded and written in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


Model = Annotated[
    str, typer.Argument(help="A model folder, a hub id, a .gguf file, or package:NAME for one in a Python package.")
]
RecipeOption = Annotated[str, typer.Option("--recipe", help="A YAML file, or the name of a recipe that ships.")]
HiddenRatio = Annotated[float | None, typer.Option(help="Share of the hidden size to keep, in (0, 1].")]
HiddenSize = Annotated[int | None, typer.Option(help="Hidden size to narrow to.")]
Selector = Annotated[str | None, typer.Option(help="magnitude, rms, principal or random.")]
Merge = Annotated[str | None, typer.Option(help="none or transport.")]
Decoder = Annotated[str | None, typer.Option(help="pinv, transport or ridge.")]
Regularisation = Annotated[float | None, typer.Option(help="Of the transport, in median distances between neurons.")]
Weighting = Annotated[str | None, typer.Option(help="normalised or raw: the stream that the selector sees.")]
Basis = Annotated[str | None, typer.Option(help="shared, layer, or run:N.")]
Refit = Annotated[bool | None, typer.Option("--refit/--no-refit", help="Refit consumers on calibration data.")]
Stock = Annotated[bool | None, typer.Option("--stock/--native", help="Insist on one output format.")]
CalibrationText = Annotated[str | None, typer.Option("--calibration", help="A named text, or file:PATH.")]
CalibrationTokens = Annotated[int | None, typer.Option(help="Calibration tokens in all.")]
SequenceLength = Annotated[int | None, typer.Option("--seqlen", help="Tokens in one calibration window.")]
Seed = Annotated[int | None, typer.Option(help="Draws the calibration documents.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")]
DtypeOption = Annotated[Dtype | None, typer.Option("--dtype", help="Load and write in this type.")]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="Accept pickled weights (tensors only).")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; everything else is on stderr.")]

DEFAULT_RECIPE = "default"


def build_recipe(name_or_path: str, width: dict[str, Any], calibration: dict[str, Any], stock: bool | None) -> Recipe:
    """The recipe with every option that was given in the place of its own."""
    recipe = load_recipe(name_or_path).model_dump(exclude_none=True)
    width = {key: value for key, value in width.items() if value is not None}
    if width.keys() & {"hidden_ratio", "hidden_size"}:
        recipe["width"] = {k: v for k, v in recipe["width"].items() if k not in ("hidden_ratio", "hidden_size")}
    recipe["width"] |= width
    recipe["calibration"] |= {key: value for key, value in calibration.items() if value is not None}
    if stock is not None:
        recipe["output"] = "stock" if stock else "native"
    return parse_recipe(recipe)


def torch_dtype(chosen: Dtype | None) -> torch.dtype | None:
    """The torch dtype of an option that may not have been given."""
    found: torch.dtype | None = getattr(torch, chosen.value) if chosen else None
    return found


def check_device(device: str) -> None:
    """Raise `UserInputError` for a device that torch does not see."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserInputError(
            f"--device {device} cannot be used: {reason}; without the option the CPU is used"
        ) from None


def quiet_transformers() -> None:
    """Leave the terminal to this program's own bars and messages: transformers and the task harness say little."""
    logging.set_verbosity_error()
    getLogger("lm_eval").setLevel(ERROR)
    logging.disable_progress_bar()


def folder_argument(path: Path) -> str:
    """How to name a folder to a person: relative where that is shorter."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
