"""`neuromeld similarity`."""

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from torch import Tensor

from neuromeld.checkpoint.source import locate
from neuromeld.cli import options as o
from neuromeld.cli.console import console
from neuromeld.cli.generated_options import with_settings
from neuromeld.data.calibration import Calibration
from neuromeld.evaluation.similarity import SIMILARITY_TOKENS, similar_windows, similarity
from neuromeld.modalities import reader_for, with_own_text
from neuromeld.model.passes import chosen_passes, passes_in
from neuromeld.planning.plan import architecture_of
from neuromeld.report import draw_maps, render_maps
from neuromeld.runtime.progress import track
from neuromeld.runtime.workspace import write_text

LENGTHS = (2, 3, 4)
SHOWN = 3
"""Windows of each length that are printed."""

SUFFIXES = (".html", ".svg", ".json")


@with_settings("calibration", Calibration, "Calibration", tokens=SIMILARITY_TOKENS)
@o.takes_machine
def similarity_command(
    model: o.Model,
    calibration: Calibration,
    machine: o.Machine,
    out: Annotated[Path | None, typer.Option(help="A file to write: .html or .svg for heat maps, or .json.")] = None,
    as_json: o.Json = False,
) -> None:
    """Compare what the layers of MODEL write: linear CKA of every two FFNs, and of every two attentions."""
    if out is not None:
        o.check_writable("--out", out, SUFFIXES)
    source = locate(model, allow_pickle=machine.allow_pickle)
    config = source.config()
    reader = with_own_text(reader_for(config), source, machine.device, progress=True)
    data = reader.calibration(calibration, reader.processor(source.folder), config, calibration.tokens)
    loaded = source.load(machine.dtype, machine.device)
    passes = passes_in(chosen_passes(calibration.passes, loaded), loaded)
    with track("comparing layers", 2 * len(data.batches), enabled=True) as advance, passes:
        found = similarity(loaded, architecture_of(loaded), data.batches, max_tokens=None, advance=advance)
    matrices = {"ffn": found.ffn, "attention": found.attention}
    result = {
        "source": source.name,
        "similarity": {name: _finite(matrix) for name, matrix in matrices.items()},
        "calibration": {
            "source": data.source,
            "split": data.split,
            "sha256": data.sha256,
            "tokens": data.num_tokens,
        },
    }
    if out is not None:
        record = {"similarity": {name: matrix.tolist() for name, matrix in matrices.items()}}
        name = Path(source.name).name
        drawn = {".html": lambda: render_maps(name, record), ".svg": lambda: draw_maps(record)}
        write_text(out, drawn.get(out.suffix, lambda: json.dumps(result) + "\n")())
    if as_json:
        typer.echo(json.dumps(result))
        return
    _print(matrices)
    if out is not None:
        console().print(f"written to {o.folder_argument(out)}", soft_wrap=True)


def _finite(matrix: Tensor) -> list[list[float | None]]:
    return [[value if math.isfinite(value) else None for value in row] for row in matrix.tolist()]


def _print(matrices: dict[str, Tensor]) -> None:
    """Print the windows of adjacent layers that are most alike."""
    table = Table("adjacent layers", "most alike FFNs", "most alike attention", title="mean linear CKA of all pairs")
    for length in LENGTHS:
        cells: list[Any] = []
        for matrix in matrices.values():
            best = similar_windows(matrix, length)[:SHOWN]
            cells.append(", ".join(f"{w.start}-{w.stop - 1} ({value:.3f})" for w, value in best))
        if any(cells):
            table.add_row(str(length), *cells)
    console().print(table)
