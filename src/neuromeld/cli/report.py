"""`neuromeld report`."""

from pathlib import Path
from typing import Annotated

import typer

from neuromeld.cli import options as o
from neuromeld.cli.console import console
from neuromeld.report import save_report


def report_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that neuromeld compress wrote.")],
    out: Annotated[Path | None, typer.Option(help="The file to write; report.html in DIR if not given.")] = None,
) -> None:
    """Draw what is in DIR's record.json, as one HTML file that needs nothing else."""
    written = save_report(folder, out)
    console().print(f"report in {o.folder_argument(written)}", soft_wrap=True)
