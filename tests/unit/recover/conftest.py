"""A text that a tiny model learns in a few steps, and compressed checkpoints to learn it."""

import json
from pathlib import Path

import pytest

from neuromeld import compress, parse_recipe
from neuromeld.recover import Recovery, parse_recovery

SIZE = 16
"""Hidden size of the compressed models; that of the original is 24."""


@pytest.fixture(scope="session")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Every word follows from the one before it."""
    path = tmp_path_factory.mktemp("pattern") / "pattern.jsonl"
    lines = (" ".join(f"w{2 + (start + i) % 62}" for i in range(80)) for start in range(60))
    path.write_text("\n".join(json.dumps({"text": line}) for line in lines))
    return f"file:{path}"


def _compressed(checkpoint: Path, text: str, out: Path, basis: str) -> Path:
    calibration = {"source": text, "tokens": 2048, "seqlen": 32}
    compress(
        str(checkpoint), parse_recipe({"width": {"hidden_size": SIZE, "basis": basis}, "calibration": calibration}), out
    )
    return out


@pytest.fixture(scope="session")
def stock(checkpoint: Path, text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tied stock checkpoint."""
    folder = tmp_path_factory.mktemp("stock") / "narrow"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEUROMELD_CACHE", str(folder.parent / "cache"))
        return _compressed(checkpoint, text, folder, "shared")


@pytest.fixture(scope="session")
def native(checkpoint: Path, text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tied native checkpoint with two bases."""
    folder = tmp_path_factory.mktemp("native") / "narrow"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEUROMELD_CACHE", str(folder.parent / "cache"))
        return _compressed(checkpoint, text, folder, "run:2")


@pytest.fixture
def settings(pattern: str):
    """Thirty steps on the pattern, with changes."""

    def build(**changes: object) -> Recovery:
        stated = {"train": pattern, "steps": 30, "batch_tokens": 128, "seqlen": 16, "learning_rate": 0.01}
        return parse_recovery(stated | {"schedule": "constant"} | changes)

    return build
