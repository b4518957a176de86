"""A text that a tiny model learns in a few steps, and compressed checkpoints to learn it."""

import json
from pathlib import Path

import pytest
import torch
from transformers import BitImageProcessorPil, ViTConfig, ViTForImageClassification

from neuromeld import compress, parse_recipe
from neuromeld.recovery import Recovery, parse_recovery

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
        return parse_recovery(stated | {"schedule": "constant", "bf16": False} | changes)

    return build


@pytest.fixture(scope="session")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of digits that was never trained; an image takes 17 positions."""
    folder = tmp_path_factory.mktemp("vit") / "dense"
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
    config = ViTConfig(
        **sizes, image_size=8, patch_size=2, num_labels=10, hidden_dropout_prob=0.1, initializer_range=0.3
    )
    ViTForImageClassification(config).save_pretrained(folder)
    BitImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def merged_vit(vit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its layers 1 to 3 have one FFN between them."""
    folder = tmp_path_factory.mktemp("merged-vit") / "merged"
    recipe = {"share_ffns": {"window": [1, 3]}, "calibration": {"source": "digits", "tokens": 1700}}
    compress(str(vit), parse_recipe(recipe), folder)
    return folder


@pytest.fixture
def digits():
    """A hundred steps on handwritten digits, with changes."""

    def build(**changes: object) -> Recovery:
        stated = {"train": "digits", "steps": 100, "batch_tokens": 512, "learning_rate": 0.005}
        return parse_recovery(stated | {"schedule": "constant", "bf16": False} | changes)

    return build
