"""The command line: one message on stderr and an exit code for whatever goes wrong, nothing left behind."""

import signal
import sys
from typing import Any, NoReturn

import torch
import typer

from neuromeld.cli import benchmark, compress, evaluate, listing, recover, report, similarity
from neuromeld.cli.console import console
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


UsageError: Any = typer.BadParameter.__base__
"""What is raised for arguments that do not fit: of the click that typer uses, its own copy or the package."""


def main() -> NoReturn:
    """Run the command line and exit."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = app(prog_name="neuromeld", standalone_mode=False)
    except NeuromeldError as error:
        code = _failed(str(error), error.exit_code)
    except UsageError as error:
        code = _misused(error)
    except OSError as error:  # what no one closer to it could say more of
        code = _failed(": ".join(str(part) for part in (error.filename, error.strerror or error) if part), 1)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        code = _failed(f"there is not enough memory for this ({str(error).strip().partition(chr(10))[0]})", 1)
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except _Terminated:
        code = TERMINATED
    if code in (INTERRUPTED, TERMINATED):  # typer turns Ctrl-C into this code
        what = "interrupted" if code == INTERRUPTED else "terminated"
        _say(f"{what}; nothing half-done was left at the output. run again, compress and recover go on")
    sys.exit(code)


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, numpy, a card, or torch on a processor, which has no class for it, got no memory."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def _misused(error: Any) -> int:
    """Say how the command is called and what does not fit; without any arguments typer has printed the help."""
    message = error.format_message()
    if error.ctx is not None and message and sys.argv[1:]:
        _say(f"{error.ctx.get_usage()} ({error.ctx.command_path} --help says more)")
    return _failed(message, error.exit_code) if message and sys.argv[1:] else int(error.exit_code)


def _failed(message: str, exit_code: int) -> int:
    _say(f"error: {message}")
    return exit_code


def _say(message: str) -> None:
    console(stderr=True).print(message, soft_wrap=True)


class _Terminated(BaseException):
    """The process was asked to end: what is open is closed and what is half done removed."""


def _terminate(*_: object) -> NoReturn:
    raise _Terminated
