"""Run a case in this process and say what is wrong with how it ended.

Right is: exit code 0, and the result loads; or one of the documented codes and one message on stderr.  Nothing but what
the case allows has changed in its folder or beside it, and memory has not grown beyond a bound.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import resource
import signal
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any, NoReturn

import huggingface_hub.constants
import torch
import transformers

from fuzz.case import Case, Scene
from fuzz.classes import CLASSES
from fuzz.originals import Originals
from neuromeld.cli import main
from neuromeld.errors import NeuromeldError
from neuromeld.runtime.memory import peak_rss_bytes

CODES = {0, *(kind.exit_code for kind in (NeuromeldError, *NeuromeldError.__subclasses__()))}
MESSAGE = re.compile(r"^(error: |Error: |╭─ Error)", re.MULTILINE)
LONGEST_MESSAGE = 8_000
MOST_GROWTH = 512 << 20
"""Bytes that a case may add to the peak of resident memory; the models are of some kilobytes."""

MOST_SECONDS = 60
"""Of processor time: a case that takes more is stopped; the slowest good one takes three."""


class TooLong(BaseException):
    """The case was stopped: nothing may catch this as an error of its own."""


@dataclass
class Outcome:
    """What a case did; `problems` is empty where all is right."""

    name: str
    case: Case
    code: Any = None
    stdout: str = ""
    stderr: str = ""
    problems: list[str] = field(default_factory=list)

    def told(self) -> str:
        """The command, what is wrong, and how to run it again."""
        kind, seed, number = self.name.split("/")
        again = f"PYTHONPATH=tests .venv/bin/python -m fuzz --kind {kind} --seed {seed} --number {number}"
        shown = " ".join(ascii(part)[:80] for part in self.case.command)
        return "\n".join(
            [f"{self.name}: neuromeld {shown}", *(f"  {problem}" for problem in self.problems), f"  {again}"]
        )


def run_case(kind: str, seed: int, number: int, originals: Originals, folder: Path) -> Outcome:
    """Draw one case into `folder`, which does not exist yet, and run it there."""
    here = folder / "a" / "here"  # what names a parent stays in the folder
    here.mkdir(parents=True)
    name = f"{kind}/{seed}/{number}"
    with _environment(here, folder.with_name("cache")):
        case = CLASSES[kind](Scene(Random(name), here, originals))
        outcome = Outcome(name, case)
        before, peak = _snapshot(folder), peak_rss_bytes()
        _run(outcome)
        after, grown = _snapshot(folder), peak_rss_bytes() - peak
    outcome.problems += _wrong_end(outcome) + _wrong_changes(case, outcome.code, before, after)
    if grown > MOST_GROWTH:
        outcome.problems.append(f"memory: grew by {grown >> 20} MiB")
    if outcome.code == 0 and case.result is not None and not outcome.problems:
        outcome.problems += _wrong_result(here / case.result[0], case.result[1])
    return outcome


def _run(outcome: Outcome) -> None:
    streams = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace")
    sys.argv = ["neuromeld", *outcome.case.command]
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]), _bounds():
        try:
            main()
        except SystemExit as end:
            outcome.code = 0 if end.code is None else end.code
        except TooLong:
            outcome.problems.append(f"time: stopped after {MOST_SECONDS} s at {_place(sys.exception())}")
        except BaseException as error:  # the law is that there is none, of any kind
            outcome.problems.append(f"traceback: {type(error).__name__} at {_place(error)}: {str(error)[:200]!r}")
    for stream in streams:
        stream.flush()
    outcome.stdout, outcome.stderr = (stream.buffer.getvalue().decode("utf-8", "replace") for stream in streams)


def _place(error: BaseException | None) -> str:
    """The last line of neuromeld that an exception came through, and the last of all."""
    frames = traceback.extract_tb(error.__traceback__ if error else None)
    own = [frame for frame in frames if "neuromeld" in Path(frame.filename).parts]
    found = [*own[-1:], *frames[-1:]]
    return " < ".join(dict.fromkeys(f"{Path(f.filename).name}:{f.name}" for f in found))


def _wrong_end(outcome: Outcome) -> list[str]:
    if outcome.problems:
        return []
    problems = []
    messages = len(MESSAGE.findall(outcome.stderr))
    if outcome.code not in CODES:
        problems.append(f"code: {outcome.code!r}")
    if "Traceback" in outcome.stderr + outcome.stdout:
        problems.append("traceback: printed")
    if outcome.code != 0 and not outcome.case.keeps and messages != 1:
        problems.append(f"message: {messages} messages: {outcome.stderr[-200:]!r}")
    if outcome.code == 0 and messages:
        problems.append(f"message: an error, and exit code 0: {outcome.stderr[-200:]!r}")
    if len(outcome.stderr) > LONGEST_MESSAGE:
        problems.append(f"message: {len(outcome.stderr):,} characters: {outcome.stderr[:200]!r}")
    if outcome.case.must is not None and (outcome.code == 0) != (outcome.case.must == "succeed"):
        problems.append(f"verdict: had to {outcome.case.must}, code {outcome.code}: {outcome.stderr[-200:]!r}")
    if outcome.code == 0 and "--json" in outcome.case.command and "--help" not in outcome.case.command:
        problems += _wrong_json(outcome.stdout)
    return problems


def _wrong_json(stdout: str) -> list[str]:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    try:
        json.loads(stdout, parse_constant=refuse)
    except ValueError as error:
        return [f"json: {error}: {stdout[:100]!r}"]
    return []


def _wrong_changes(case: Case, code: Any, before: dict[str, str], after: dict[str, str]) -> list[str]:
    allowed = [f"a/here/{name}" for name in (case.writes if code == 0 else ()) + case.keeps]
    problems = []
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) == after.get(name) or any(name == a or name.startswith(f"{a}/") for a in allowed):
            continue
        change = "left" if name not in before else "lost" if name not in after else "changed"
        problems.append(f"{change}: {name.removeprefix('a/here/')[:100]}")
    return problems[:4]


def _snapshot(folder: Path) -> dict[str, str]:
    """Everything in the folder, by name: what it is, and a digest of what is in it."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_symlink():
            content = f"link to {path.readlink()}"
        elif path.is_file():
            content = hashlib.sha1(path.read_bytes()).hexdigest()
        else:
            content = "folder"
        found[str(path.relative_to(folder)).encode("utf-8", "replace").decode()] = content
    return found


def _wrong_result(folder: Path, loads_as: str) -> list[str]:
    try:
        model, info = getattr(transformers, loads_as).from_pretrained(folder, output_loading_info=True)
    except Exception as error:  # whatever transformers says of it
        return [f"result: does not load: {type(error).__name__}: {str(error)[:200]}"]
    wrong = [f"result: {what}: {list(names)[:3]}" for what, names in info.items() if names]
    if any(not parameter.isfinite().all() for parameter in model.parameters()):
        wrong.append("result: weights are not finite")
    return wrong


@contextlib.contextmanager
def _environment(here: Path, cache: Path) -> Iterator[None]:
    """Another working folder, home and cache, no network; what a case may leave in this process is set back."""
    earlier = {
        "cwd": Path.cwd(),
        "argv": sys.argv,
        "environ": dict(os.environ),
        "term": signal.getsignal(signal.SIGTERM),
    }
    offline = huggingface_hub.constants.HF_HUB_OFFLINE
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    os.environ |= {"HOME": str(here), "NEUROMELD_CACHE": str(cache), "COLUMNS": "120"}
    os.chdir(here)
    try:
        yield
    finally:
        os.chdir(earlier["cwd"])
        sys.argv = earlier["argv"]
        os.environ.clear()
        os.environ |= earlier["environ"]
        signal.signal(signal.SIGTERM, earlier["term"])
        huggingface_hub.constants.HF_HUB_OFFLINE = offline
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def _bounds() -> Iterator[None]:
    """Within the block a long case is stopped, and memory of gigabytes is refused by the system."""

    def stop(_number: int, _frame: FrameType | None) -> NoReturn:
        raise TooLong

    earlier = signal.signal(signal.SIGPROF, stop)
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    held = re.search(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text()) if sys.platform == "linux" else None
    if held is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (int(held[1]) * 1024 + 4 * MOST_GROWTH, limits[1]))
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, earlier)
        resource.setrlimit(resource.RLIMIT_DATA, limits)
