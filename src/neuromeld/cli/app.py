"""The command line: one message on stderr and an exit code for whatever goes wrong, nothing left behind."""

import ast
import signal
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import typer

from neuromeld.cli.console import console
from neuromeld.errors import NeuromeldError

INTERRUPTED, TERMINATED = 130, 143
"""What shells expect of a program that was stopped by Ctrl-C, or by SIGTERM: 128 and the signal's number."""

COMMANDS = {
    "compress": "neuromeld.cli.compress:compress_command",
    "plan": "neuromeld.cli.compress:plan_command",
    "recover": "neuromeld.cli.recover:recover_command",
    "teach": "neuromeld.cli.teach:teach_command",
    "evaluate": "neuromeld.cli.evaluate:evaluate_command",
    "benchmark": "neuromeld.cli.benchmark:benchmark_command",
    "report": "neuromeld.cli.report:report_command",
    "export": "neuromeld.cli.export:export_command",
    "serve-check": "neuromeld.cli.export:serve_check_command",
    "frontier": "neuromeld.cli.frontier:frontier_command",
    "similarity": "neuromeld.cli.similarity:similarity_command",
    "list": "neuromeld.cli.listing:list_command",
    "recipe": "neuromeld.cli.recipe:recipe_command",
}
"""The module and the function of each command, in the order of the help."""


def build_app(command: str | None) -> typer.Typer:
    """Return the program with one command loaded; of the others there is the first line of their help.

    So `neuromeld --help` imports neither torch nor transformers.
    """
    app = typer.Typer(
        name="neuromeld",
        help="Make trained Transformers smaller by merging, not deleting.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    for name, target in COMMANDS.items():
        module, _, function = target.partition(":")
        if name == command:
            app.command(name)(getattr(import_module(module), function))
        else:
            app.command(name, help=_first_line(module, function))(_not_loaded)
    return app


def _first_line(module: str, function: str) -> str:
    """Return the first line of a function's docstring, read from the file."""
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    found = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
    return (ast.get_docstring(found) or "").split("\n")[0]


def _not_loaded() -> None:
    """Stand in the help for a command that was not asked for."""


UsageError: Any = typer.BadParameter.__base__
"""What is raised for arguments that do not fit: of the click that typer uses, its own copy or the package."""


def main() -> NoReturn:
    """Run the command line and exit."""
    signal.signal(signal.SIGTERM, _terminate)
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    try:
        code = build_app(command)(prog_name="neuromeld", standalone_mode=False)
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
        _say(f"{what}: no partial output was written.{_resume(command)}")
    sys.exit(code)


def _resume(command: str | None) -> str:
    return " Run the same command again to resume." if command in ("compress", "frontier", "recover", "teach") else ""


def _is_out_of_memory(error: BaseException) -> bool:
    """Tell whether Python, numpy, a card, or torch on a processor, which has no class for it, got no memory."""
    torch = sys.modules.get("torch")
    out_of_memory = (MemoryError,) if torch is None else (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, out_of_memory) or "DefaultCPUAllocator" in str(error)


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
