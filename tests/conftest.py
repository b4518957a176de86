"""A tiny Llama checkpoint with a tokenizer and a text file: everything the command line needs, offline.

Tests run on one thread: tiny matrices are slower on more, and sums do not depend on how many there are.
"""

from pathlib import Path

import pytest
import torch

from tiny import save_model, save_text

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(folder)
    return folder


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "words.jsonl"
    save_text(path)
    return f"file:{path}"
