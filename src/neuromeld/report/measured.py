"""Keep what was measured with the checkpoints that it was measured on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neuromeld.checkpoint import render_card, save_record
from neuromeld.errors import UserInputError
from neuromeld.report.page import checked_record, save_report
from neuromeld.report.record import with_measurements


def records_to_fill(models: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the records of all models but the first, which is what they are compared to.

    `UserInputError` where there is nothing to compare, `CheckpointError` for a folder without a record.
    """
    if len(models) < 2:
        raise UserInputError("--save compares: give the original model first, then those that compress wrote")
    return {name: checked_record(Path(name)) for name in models[1:]}


def save_measurements(
    records: Mapping[str, dict[str, Any]], before: dict[str, Any], results: Mapping[str, dict[str, Any]]
) -> None:
    """Write measurements into the record, card and report of each compressed model.

    records  of the models, as `records_to_fill` returns them
    before   what `evaluate` returned for the original
    results  the same for all
    """
    for name, record in records.items():
        filled = with_measurements(record, before, results[name])
        save_record(Path(name), filled, card=render_card(filled) if "source" in filled else None)
        save_report(Path(name))
