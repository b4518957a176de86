"""Options that several commands share."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from logging import ERROR, getLogger
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any

import torch
import typer
from pydantic import ByteSize, Field, TypeAdapter, ValidationError
from transformers.utils import logging

from neuromeld.cli.generated_options import parameter, with_options
from neuromeld.errors import UserInputError


class Dtype(StrEnum):
    """Floating-point types a model can be loaded and written in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


MOST_BYTES = 10**18

Model = Annotated[
    str, typer.Argument(help="A model folder, a hub id, a .gguf file, or package:NAME for one in a Python package.")
]
MACHINE, OUTPUT = "Machine", "Output"
"""Panels of the help."""

Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...", rich_help_panel=MACHINE)]
AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="Accept pickled weights (tensors only).", rich_help_panel=MACHINE)
]
Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Print one JSON object on stdout; everything else is on stderr.", rich_help_panel=OUTPUT
    ),
]


@dataclass(frozen=True)
class Machine:
    """How models are loaded, and where they are worked on.

    asked   the device that was asked for, if any
    """

    asked: str | None
    dtype: torch.dtype | None
    allow_pickle: bool

    @property
    def device(self) -> str:
        """The device, by default the CPU."""
        return self.asked or "cpu"

    @property
    def arguments(self) -> dict[str, Any]:
        """Return what functions that load models are called with."""
        return {"dtype": self.dtype, "device": self.device, "allow_pickle": self.allow_pickle}


def takes_machine(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a machine, in the place of its argument `machine`."""

    def build(values: dict[str, Any]) -> Machine:
        quiet_transformers()
        device, dtype = values["device"], values["dtype"]
        check_device(device or "cpu")
        return Machine(device, getattr(torch, dtype) if dtype else None, values["allow_pickle"])

    parameters = [
        parameter("--device", str | None, "cpu (default), cuda, cuda:1 ...", MACHINE),
        parameter("--dtype", Dtype | None, "Load and write in this type.", OUTPUT),
        parameter("--allow-pickle", bool, "Accept pickled weights (tensors only).", MACHINE, default=False),
    ]
    return with_options(command, "machine", parameters, build)


def num_bytes(size: str | None, option: str = "--max-memory") -> int | None:
    """Return the number of bytes of an option as 2GB or 500MiB that may not have been given."""
    if size is None:
        return None
    try:
        return int(TypeAdapter(Annotated[ByteSize, Field(gt=0, le=MOST_BYTES)]).validate_python(size))
    except (ValidationError, OverflowError):  # no size, or an infinite one
        raise UserInputError(f"{option} {size} must be a size, as 2GB or 500MiB, of at most 1 EB") from None


def check_writable(option: str, path: Path, suffixes: Sequence[str]) -> None:
    """Raise `UserInputError` unless a file of this kind could be written there: asked before the work for it."""
    folder = path.absolute().parent
    if path.suffix not in suffixes or path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserInputError(
            f"{option} {path} must be a file in a folder that can be written to, ending in {', '.join(suffixes)}"
        )


def check_device(device: str) -> None:
    """Raise `UserInputError` for a device that torch does not see."""
    try:
        torch.zeros(1, device=device).item()  # meta has no values to read
    except (RuntimeError, AssertionError) as error:
        reason = shorten(str(error), 200)
        raise UserInputError(
            f"--device {device} cannot be used: {reason}; without the option the CPU is used"
        ) from None


def quiet_transformers() -> None:
    """Leave the terminal to this program's own bars and messages: libraries say little."""
    logging.set_verbosity_error()
    getLogger("lm_eval").setLevel(ERROR)
    getLogger("bitsandbytes").setLevel(ERROR)
    logging.disable_progress_bar()


def folder_argument(path: Path) -> str:
    """Name a folder to a person: relative where that is shorter."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
