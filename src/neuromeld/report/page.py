"""The page: which sections there are, in which order, and the one file they become."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from neuromeld.checkpoint import render_card
from neuromeld.drawing.section import Record, Section
from neuromeld.drawing.style import STYLE
from neuromeld.errors import CheckpointError
from neuromeld.report.sections import layers, origin, overview, quality, sharing

HERE = Path(__file__).parent

SECTIONS: tuple[Callable[[Record], Section | None], ...] = (
    overview.summary,
    overview.warnings,
    overview.sizes,
    quality.evaluation,
    quality.tasks,
    quality.samples,
    quality.recovery,
    quality.candidates,
    layers.runs,
    layers.refits,
    layers.feed_forward,
    layers.heads,
    sharing.dropped,
    sharing.deleted,
    sharing.windows,
    sharing.similarity,
    origin.loading,
    origin.recipe,
    origin.calibration,
    origin.versions,
)
"""Every section, in the order of the page; one whose data the record does not hold returns None."""


def render_report(record: Record) -> str:
    """The report of a compression as one HTML page without references to anything outside it."""
    name = overview.name_of(record)
    sections = [section for make in SECTIONS if (section := make(record)) is not None]
    return render_page(name, f"{name}, compressed by neuromeld", sections, overview.tiles(record))


def render_page(name: str, title: str, sections: Sequence[Section], tiles: Sequence[overview.Tile] = ()) -> str:
    """One HTML page; `title` is that of the browser's window."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.get_template("page.html.jinja")
    return template.render(name=name, title=title, tiles=tiles, sections=sections, style=STYLE)


def save_report(folder: Path, out: Path | None = None) -> Path:
    """Write the report of the checkpoint in `folder`, as `report.html` in it unless `out` names a file."""
    out = out or folder / "report.html"
    page = render_report(load_record(folder))
    try:
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"the report cannot be written to {out}: {error.strerror}") from error
    return out


def load_record(folder: Path) -> dict[str, Any]:
    """The `record.json` of a checkpoint; `CheckpointError` where there is none that can be read."""
    path = folder / "record.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}); a report is made of the folder that neuromeld compress wrote"
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(record, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return record


def load_drawable(folder: Path) -> dict[str, Any]:
    """The record of a checkpoint of which card and report can be made: asked before hours of work that is added to it.

    `CheckpointError` where the record is of another version, or was edited by hand to something else.
    """
    record = load_record(folder)
    try:
        render_card(record)
        render_report(record)
    except Exception as error:  # a record may hold anything
        raise CheckpointError(
            f"{folder / 'record.json'} is not what this version of neuromeld writes ({error!r}): nothing can be added "
            "to it; compress the model again, or evaluate without --save"
        ) from error
    return record
