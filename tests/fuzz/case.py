"""What a generator makes: files in a folder, and a command line to run there."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

from fuzz.originals import Originals


@dataclass(frozen=True)
class Case:
    """A command line, and what it may do to the folder that it runs in.

    writes   names that a success may add or change; a failure changes nothing
    keeps    names that a failure may leave too: results that were paid for, as those of a benchmark
    result   the checkpoint that a success must have written, and the class in transformers that must load it
    must     what has to happen, where that is known
    """

    command: list[str]
    writes: tuple[str, ...] = ()
    keeps: tuple[str, ...] = ()
    result: tuple[str, str] | None = None
    must: Literal["succeed", "fail"] | None = None


@dataclass(frozen=True)
class Scene:
    """The folder of one case, `here`, with the random numbers that it is drawn from."""

    draw: Random
    here: Path
    originals: Originals

    def take(self, name: str, rename: str | None = None) -> Path:
        """Copy a file or folder of the originals into the scene."""
        source, target = self.originals.path(name), self.here / (rename or name)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copyfile(source, target)
        return target


CHEAP = ["--drop-layers-at", "1", "--no-evaluate"]
"""The stage that costs least."""

TEXT = ["--calibration", "file:words.jsonl", "--calibration-tokens", "256", "--seqlen", "32"]


def compression(model: str, *options: str, loads_as: str = "AutoModelForCausalLM") -> Case:
    """A compression of `model` to `out` that may well succeed."""
    return Case(["compress", model, "out", *options], writes=("out",), result=("out", loads_as))
