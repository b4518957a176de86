"""A tiny Llama checkpoint with a tokenizer and a text file: everything the command line needs, offline.

What takes long to import is imported in fixtures: the process that gives tests out to others needs none of it.
Tests run on one thread: tiny matrices are slower on more, and sums do not depend on how many there are.
Forward passes compute in the format of the weights, also where the processor multiplies in bfloat16.
What is drawn at random is the same every time, unless `HYPOTHESIS_PROFILE=search` asks for more and other examples.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported by any of the tests

hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.register_profile("search", deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture(scope="session", autouse=True)
def same_on_every_processor() -> Iterator[None]:
    import torch

    from neuromeld.model import passes

    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "multiplies_bfloat16", lambda _: False)
        yield


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny import save_model

    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(folder)
    return folder


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    from tiny import save_text

    path = tmp_path_factory.mktemp("text") / "words.jsonl"
    save_text(path)
    return f"file:{path}"
