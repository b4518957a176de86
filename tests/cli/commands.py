"""What command-line tests have in common."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml
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


def check_grid(cli, folder: Path, model: Path, kind: str, data: str, limit: str) -> None:
    """A grid measures what `evaluate` does, and again after recovery; what is there is not measured again."""
    recovery = {"steps": 2, "batch_tokens": 512, "learning_rate": 0.01, "bf16": False}
    grid = {"models": [str(model)], "data": data, "evaluation_examples": 20,
            "calibration_tokens": 1200, "evaluation_dtype": "bfloat16",
            "recovery": recovery, "rows": {"narrow": {"recipe": {"ffn": {"ratio": 0.5}}}}}  # fmt: skip
    (folder / "grid.yaml").write_text(yaml.safe_dump(grid))
    code, stdout, stderr = cli("benchmark", folder / "grid.yaml", "--json")
    assert code == 0, stderr
    dense, narrow = json.loads(stdout)["results"]
    code, evaluated, stderr = cli("evaluate", model, f"--{kind}", data, limit, 20, "--dtype", "bfloat16", "--json")
    assert code == 0, stderr
    expected = json.loads(evaluated)
    expected |= expected.get("tasks", {}).get(data, {})
    assert dense["scores"] == {name: pytest.approx(expected[name]) for name in dense["scores"]}
    assert dense["dtype"] == "float32"
    assert dense["parameters"] == expected["parameters"] > narrow["parameters"]
    assert narrow["excess_loss"] == pytest.approx(narrow["scores"]["loss"] - dense["scores"]["loss"])
    assert narrow["scores"] != dense["scores"]
    assert narrow["recovered"]["scores"].keys() == dense["scores"].keys()
    assert narrow["recovered"]["scores"]["loss"] != narrow["scores"]["loss"]
    assert json.loads(cli("benchmark", folder / "grid.yaml", "--json")[1])["results"] == [dense, narrow]
    assert "evaluation_examples 20" in " ".join(cli("benchmark", folder / "grid.yaml")[1].split())
