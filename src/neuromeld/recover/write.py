"""Write a recovered checkpoint, with all that its old folder says of the compression."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from neuromeld.checkpoint import new_folder, outputs, render_card, save_checkpoint, save_record, verify_checkpoint
from neuromeld.evaluate import bytes_on_disk
from neuromeld.model.capture import Batch

STALE = ("evaluation", "samples", "tasks", "retained_performance")
"""Keys of a record that hold for the weights before, and no more."""


@torch.no_grad()
def write_recovered(
    model: PreTrainedModel,
    processor: Any,
    source: Path,
    out: Path,
    recovery: dict[str, Any],
    check_batch: Batch,
    *,
    force: bool,
) -> dict[str, Any]:
    """Write the model to `out`, load it again and compare its logits on `check_batch`; returns the record.

    source   the folder that the model came from: its recipe is kept, and its record, with `recovery` added.  An
             earlier recovery moves into the new one as `earlier`.  A folder without a record keeps its own card.
    """
    old = _read(source / "record.json")
    before = json.loads(old) if old else {}
    if "recovery" in before:
        recovery = recovery | {"earlier": before["recovery"]}
    record = {key: value for key, value in before.items() if key not in STALE} | {"recovery": recovery}
    expected = outputs(model, check_batch)
    with new_folder(out, force=force) as folder:
        save_checkpoint(model, processor, folder, recipe_yaml=_read(source / "recipe.yaml"))
        record |= {"logit_difference": verify_checkpoint(folder, expected, check_batch, dtype=model.dtype)}
        record |= {"bytes_on_disk": bytes_on_disk(folder)}
        save_record(folder, record, card=render_card(record) if "source" in before else _read(source / "README.md"))
    return record


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
