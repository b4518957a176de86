"""Jobs in processes of their own: forks of the tests', which have imported everything that takes long to import."""

import multiprocessing
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable

import neuromeld.cli.compress  # noqa: F401  # so that no fork has to
from neuromeld.cli import main

FORK = multiprocessing.get_context("fork")


Moment = tuple[str, str, signal.Signals]
"""An event of Python, a pattern of a file's name, and the signal that a process sends itself when it opens, or renames
to, a file of such a name.
"""


class Job:
    """`work()` in a process of its own, with more in its environment; what it prints is kept in files.

    at   when it is to end
    """

    def __init__(self, work: Callable[[], object], *, at: Moment | None = None, **environment: object) -> None:
        self._streams = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115
        self.process = FORK.Process(target=self._run, args=(work, at, environment))
        self.process.start()

    def _run(self, work: Callable[[], object], at: Moment | None, environment: dict[str, object]) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background of a shell
        if at is not None:
            sys.addaudithook(_sender(*at))
        os.environ |= {name: str(value) for name, value in environment.items()}
        for number, stream in enumerate(self._streams, start=1):
            os.dup2(stream.fileno(), number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        work()

    def wait(self, timeout: float = 300) -> tuple[int, str, str]:
        """Return how the process ended, minus the number of a signal that killed it, and what it printed."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(f"the job has not ended within {timeout} s")
        for stream in self._streams:
            stream.seek(0)
        stdout, stderr = (stream.read() for stream in self._streams)
        return self.process.exitcode, stdout, stderr


def command(*arguments: object, at: Moment | None = None, **environment: object) -> Job:
    """Start the command line in a process of its own."""

    def work() -> None:
        sys.argv = ["neuromeld", *map(str, arguments)]
        main()

    return Job(work, at=at, **environment)


def _sender(event: str, pattern: str, number: signal.Signals) -> Callable[[str, tuple[object, ...]], None]:
    def send(happened: str, details: tuple[object, ...]) -> None:
        if happened == event and details and re.search(pattern, str(details[1 if event == "os.rename" else 0])):
            os.kill(os.getpid(), number)

    return send
