"""What command-line tests have in common."""

import shutil
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from neuromeld.cli import main

CALIBRATION = ["--calibration-tokens", "2048", "--seqlen", "32"]


def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["neuromeld", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        main()
    captured = capsys.readouterr()
    return int(exit_.value.code or 0), captured.out, captured.err


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def damaged(checkpoint: Path, folder: Path, change) -> Path:
    shutil.copytree(checkpoint, folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
