"""The page: which sections there are, in which order, and the one file they become."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from neuromeld.checkpoint import render_card
from neuromeld.checkpoint.stated import read_json
from neuromeld.drawing.section import Record, Section
from neuromeld.drawing.style import STYLE
from neuromeld.errors import CheckpointError
from neuromeld.report.sections import origin, overview, quality, similarity
from neuromeld.runtime.workspace import write_text
from neuromeld.stages import STAGES

HERE = Path(__file__).parent

BEFORE: tuple[Callable[[Record], Section | None], ...] = (
    overview.summary,
    overview.warnings,
    overview.sizes,
    quality.evaluation,
    quality.tasks,
    quality.samples,
    quality.recovery,
    quality.candidates,
)
AFTER: tuple[Callable[[Record], Section | None], ...] = (
    similarity.similarity,
    origin.loading,
    origin.recipe,
    origin.calibration,
    origin.versions,
)
"""The sections before and behind those of the stages; one whose data the record does not hold returns None."""


def sections_of(record: Record) -> list[Section]:
    """Return the sections of a report in the order of the page."""
    found = [make(record) for make in BEFORE]
    found += [section for stage in STAGES for section in stage.sections(record)]
    found += [make(record) for make in AFTER]
    return [section for section in found if section is not None]


def render_report(record: Record) -> str:
    """Return the report of a compression as one HTML page without references to anything outside it."""
    name = overview.name_of(record)
    return render_page(name, f"{name}, compressed by neuromeld", sections_of(record), overview.tiles(record))


def render_page(name: str, title: str, sections: Sequence[Section], tiles: Sequence[overview.Tile] = ()) -> str:
    """Render one HTML page; `title` is that of the browser's window."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.get_template("page.html.jinja")
    return template.render(name=name, title=title, tiles=tiles, sections=sections, style=STYLE)


def save_report(folder: Path, out: Path | None = None) -> Path:
    """Write the report of the checkpoint in `folder`, as `report.html` in it unless `out` names a file."""
    out = out or folder / "report.html"
    record = load_record(folder)
    with _reading_record(folder):
        page = render_report(record)
    write_text(out, page)
    return out


def checked_record(folder: Path) -> dict[str, Any]:
    """Return the `record.json` of a checkpoint if report and card can be made of it; ask before adding to it."""
    record = load_record(folder)
    with _reading_record(folder):
        render_report(record)
        if "source" in record:  # a recovered model that was not compressed keeps its own card
            render_card(record)
    return record


@contextmanager
def _reading_record(folder: Path) -> Iterator[None]:
    """Make it a `CheckpointError` where something of the record in `folder` is missing, or of another type."""
    try:
        yield
    except Exception as error:  # records of other versions, and damaged ones, fail wherever they are read
        raise CheckpointError(
            f"{folder / 'record.json'} is not a record as this version writes it ({type(error).__name__}: {error}): it "
            "is damaged, or of another version; compress again, or use the version that wrote it"
        ) from error


def load_record(folder: Path) -> dict[str, Any]:
    """Return the `record.json` of a checkpoint; `CheckpointError` where there is none that can be read."""
    path = folder / "record.json"
    if not path.exists():
        raise CheckpointError(
            f"{path} cannot be read (there is none); a report is made of the folder that neuromeld compress wrote"
        )
    record = read_json(path)
    if not record.keys() & {"source", "recovery"}:
        raise CheckpointError(f"{path} tells of no compression and of no recovery: it is damaged, or something else's")
    return record
