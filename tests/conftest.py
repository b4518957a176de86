"""A tiny Llama checkpoint with a tokenizer and a text file: everything the command line needs, offline.

Tests run on one thread: tiny matrices are slower on more, and sums do not depend on how many there are.
Forward passes compute in the format of the weights, also where the processor multiplies in bfloat16.
What is drawn at random is the same every time, unless `HYPOTHESIS_PROFILE=search` asks for more and other examples.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

from neuromeld.model import passes
from tiny import save_model, save_text

torch.set_num_threads(1)

hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.register_profile("search", deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture(scope="session", autouse=True)
def same_on_every_processor() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "multiplies_bfloat16", lambda _: False)
        yield


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
