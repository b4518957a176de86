"""The command line: one message on stderr and an exit code for whatever goes wrong, nothing left behind."""

import signal
import sys
from typing import NoReturn

import click
import typer
from rich.console import Console

from neuromeld.cli import benchmark, compress, evaluate, listing, recover, report, similarity
from neuromeld.errors import NeuromeldError

INTERRUPTED, TERMINATED = 130, 143
"""What shells expect of a program that was stopped by Ctrl-C, or by SIGTERM: 128 and the signal's number."""

app = typer.Typer(
    name="neuromeld",
    help="Make trained Transformers smaller by merging, not deleting.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("compress")(compress.compress_command)
app.command("plan")(compress.plan_command)
app.command("recover")(recover.recover_command)
app.command("evaluate")(evaluate.evaluate_command)
app.command("benchmark")(benchmark.benchmark_command)
app.command("report")(report.report_command)
app.command("similarity")(similarity.similarity_command)
app.command("list")(listing.list_command)


def main() -> NoReturn:
    """Run the command line and exit."""
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = app(standalone_mode=False)
    except NeuromeldError as error:
        errors.print(f"error: {error}")
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except _Terminated:
        code = TERMINATED
    if code in (INTERRUPTED, TERMINATED):  # typer turns Ctrl-C into this code
        what = "interrupted" if code == INTERRUPTED else "terminated"
        errors.print(f"{what}; nothing half-done was left at the output. run again, compress and recover go on")
    sys.exit(code)


class _Terminated(BaseException):
    """The process was asked to end: what is open is closed and what is half done removed."""


def _terminate(*_: object) -> NoReturn:
    raise _Terminated
