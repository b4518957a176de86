"""Write a recovered checkpoint, with all that its old folder says of the compression."""

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from neuromeld.checkpoint import render_card, save_checkpoint, save_record, verify_checkpoint
from neuromeld.checkpoint.companions import copy_companions
from neuromeld.checkpoint.folder import written_files
from neuromeld.checkpoint.save import SHARD_BYTES
from neuromeld.checkpoint.stated import read_json
from neuromeld.evaluation import bytes_on_disk
from neuromeld.model.capture import Batch
from neuromeld.model.outputs import outputs
from neuromeld.report import save_report

STALE = ("evaluation", "exports", "samples", "tasks", "retained_performance", "files")
"""Keys of a record that hold for the weights before, and no more."""


@torch.no_grad()
def write_recovered(
    folder: Path,
    model: PreTrainedModel,
    processor: Any,
    source: Path,
    recovery: dict[str, Any],
    check_batch: Batch,
    scratch: Path | None = None,
    max_shard_size: int = SHARD_BYTES,
) -> dict[str, Any]:
    """Write the model to `folder`, load it again and compare its logits on `check_batch`; returns the record to be.

    source   the folder that the model came from: its recipe is kept, and its record, with `recovery` added.  An
             earlier recovery moves into the new one as `earlier`.  A folder without a record keeps its own card.
    scratch  where a memory-mapped job puts what lies in no file; None in others
    """
    before = read_json(source / "record.json") if (source / "record.json").is_file() else {}
    if "recovery" in before:
        recovery = recovery | {"earlier": before["recovery"]}
    record = {key: value for key, value in before.items() if key not in STALE} | {"recovery": recovery}
    expected = outputs(model, check_batch)
    save_checkpoint(
        model,
        processor,
        folder,
        recipe_yaml=_read(source / "recipe.yaml"),
        max_shard_size=max_shard_size,
        memory_mapped=scratch is not None,
    )
    copy_companions(source, folder)
    record |= {"logit_difference": verify_checkpoint(folder, expected, check_batch, dtype=model.dtype, scratch=scratch)}
    return record | {"bytes_on_disk": bytes_on_disk(folder)}


def describe_recovered(folder: Path, record: dict[str, Any], source: Path) -> dict[str, Any]:
    """Write record, card and report beside what `write_recovered` wrote; returns the record, with all files in it."""
    record = record | {"files": written_files(folder)}
    card = render_card(record) if (source / "record.json").is_file() else _read(source / "README.md")
    save_record(folder, record, card=card)
    save_report(folder)
    return record


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
