"""Progress bars and warnings, on stderr, so that stdout stays a program's."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

T = TypeVar("T")

Advance = Callable[[int], None]
"""Called with the number of steps done so far."""

LINE_SECONDS = 30.0
"""Between two lines of progress, where there is no terminal."""


def warn(message: str) -> None:
    """Say what went wrong without ending the job."""
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(f"warning: {message}")


def say(message: str) -> None:
    """Say what is about to be done."""
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(message)


@contextmanager
def track(what: str, total: int, *, enabled: bool) -> Iterator[Advance]:
    """Show a bar for `total` steps of `what`; whole lines where there is no terminal to draw on; nothing if not
    `enabled`.
    """
    console = Console(stderr=True, highlight=False, markup=False)
    if not enabled:
        yield lambda _: None
        return
    if not console.is_terminal:
        yield _lines(console, what, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def tracked(items: Sequence[T], what: str, *, enabled: bool) -> Iterator[T]:
    """Yield the items, and show as `track` does how many are done."""
    with track(what, len(items), enabled=enabled) as advance:
        for done, item in enumerate(items, start=1):
            yield item
            advance(done)


def _lines(console: Console, what: str, total: int) -> Advance:
    """Print that `what` begins, and how far it is when `LINE_SECONDS` have gone by since the last line."""
    console.print(f"{what} ({total} steps)", soft_wrap=True)
    started = said = time.monotonic()

    def advance(done: int) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= LINE_SECONDS:
            said = now
            console.print(f"{what}: {done} of {total} steps, {now - started:.0f} s", soft_wrap=True)

    return advance
