"""Progress bars and warnings, on stderr, so that stdout stays a program's; and how long each part took."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Advance = Callable[[int], None]
"""Called with the number of steps done so far."""


def warn(message: str) -> None:
    """Say what went wrong without ending the job."""
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(f"warning: {message}")


@contextmanager
def track(what: str, total: int, *, enabled: bool) -> Iterator[Advance]:
    """Show a bar for `total` steps of `what`; a line where there is no terminal to draw on; nothing if not
    `enabled`.
    """
    console = Console(stderr=True)
    if not enabled or not console.is_terminal:
        if enabled:
            console.print(f"{what} ({total} steps)", highlight=False)
        yield lambda _: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def timed(seconds: dict[str, float], what: str) -> Iterator[None]:
    """Add the seconds that the block takes to those of `what`."""
    started = time.monotonic()
    yield
    seconds[what] = seconds.get(what, 0.0) + time.monotonic() - started
