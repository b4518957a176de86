"""Weights that transformers makes of others as it reads them: experts put together, another dtype.

They lie in no file of the checkpoint, so that where weights are to stay on the disk each is written to one of its own.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import core_model_loading

from neuromeld.runtime.paging import drop_all_pages, is_mapped, to_file
from neuromeld.runtime.workspace import naming_full_disk

IN_TURN = "HF_DEACTIVATE_ASYNC_LOAD"
"""The variable that keeps transformers from reading several weights at once."""


@contextmanager
def converted_in_files(folder: Path) -> Iterator[None]:
    """Inside, what is made of the weights of a checkpoint goes to files of `folder` that have no name.

    One is made after the other, so that what is in memory is one of them, and what it is made of.
    """
    put = core_model_loading.set_param_for_module

    def put_in_file(model: Any, name: str, value: Tensor, *others: Any) -> None:
        if not is_mapped(value):
            with naming_full_disk(folder):
                value = to_file(value, folder)
            drop_all_pages()
        put(model, name, value, *others)

    asked = os.environ.get(IN_TURN)
    core_model_loading.set_param_for_module = put_in_file  # type: ignore[assignment]
    os.environ[IN_TURN] = "1"
    try:
        yield
    finally:
        core_model_loading.set_param_for_module = put
        os.environ.pop(IN_TURN)
        if asked is not None:
            os.environ[IN_TURN] = asked
