"""The file of results: one line of JSON for each number, found again by what it is and how it was measured."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from neuromeld.benchmark.grid import DENSE, Case, Protocol
from neuromeld.errors import UserInputError
from neuromeld.settings import Settings

OF_CALIBRATION = ("calibration_tokens", "seed")
"""What does not concern the dense model as it comes."""


class Recovered(Settings):
    """A row after the recovery of its protocol; `loss_curve` has the mean training loss up to each step."""

    perplexity: float
    bf16: bool
    tokens_seen: int
    loss_curve: list[dict[str, float]]
    seconds: float


class Line(Protocol):
    """One measured row.

    asked              the row as the grid has it; None in lines from before it was recorded
    recipe             what was run, free sizes set and the planner's choice made
    candidates         what the planner weighed
    seconds            of planning, compressing and evaluating
    recovered          the same model tuned, with a recovery in the protocol
    evaluation_sha256  of the token ids
    """

    row: str
    keep: float | None = None
    perplexity: float
    parameters: int
    flops_per_token: int | None = None
    asked: dict[str, Any] | None = None
    recipe: dict[str, Any] | None = None
    candidates: list[dict[str, Any]] | None = None
    seconds: float | None = None
    evaluation_sha256: str | None = None
    dtype: str | None = None
    device: str | None = None
    versions: dict[str, str] | None = None
    recovered: Recovered | None = None


class Results:
    """The lines of a file; what is added is in the file at once, so that a run that is stopped loses one row."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[Line] = []
        try:
            content = path.read_text(encoding="utf-8") if path.exists() else ""
        except (OSError, UnicodeDecodeError) as error:
            raise UserInputError(f"the results {path} cannot be read ({error}); name another file by --out") from None
        for number, text in enumerate(content.splitlines(), start=1):
            try:
                self.lines.append(Line.model_validate_json(text))
            except ValidationError as error:
                reason = error.errors()[0]
                where = ".".join(map(str, reason["loc"]))
                raise UserInputError(
                    f"{path}, line {number}, is not a result ({where} {reason['msg']}); remove the line to measure "
                    "it again, or write to another file"
                ) from None

    def find(self, case: Case) -> Line | None:
        """The line of a case, None where it was not measured yet or its row meant something else then."""
        if case.row is None:
            return self._of_dense(case.protocol)
        asked = row_as_asked(case)
        for line in self.lines:
            same = (line.row, line.keep) == (case.name, case.keep) and _protocol(line) == _protocol(case.protocol)
            if same and line.asked in (None, asked):
                return line
        return None

    def dense(self, line: Line) -> Line | None:
        """What a line is compared with: the dense model on the same text."""
        return self._of_dense(line)

    def add(self, line: Line) -> None:
        """Keep a line and write it."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line.model_dump(exclude_none=True)) + "\n")
        self.lines.append(line)

    def _of_dense(self, protocol: Protocol) -> Line | None:
        without = OF_CALIBRATION if protocol.recovery is None else OF_CALIBRATION[:1]  # its seed draws the training
        wanted = _protocol(protocol, without=without)
        found = (line for line in self.lines if line.row == DENSE)
        return next((line for line in found if _protocol(line, without=without) == wanted), None)


def row_as_asked(case: Case) -> dict[str, Any] | None:
    """The row of a case as its line keeps it."""
    return None if case.row is None else case.row.model_dump(exclude_none=True, mode="json")


def excess_loss(line: Line, dense: Line) -> float:
    """`ln(perplexity / dense perplexity)`, in nats a token."""
    return math.log(line.perplexity / dense.perplexity)


def recovered_loss(line: Line, dense: Line) -> float | None:
    """The excess loss after recovery over that of the dense model, tuned alike; None without one."""
    if line.recovered is None or dense.recovered is None:
        return None
    return math.log(line.recovered.perplexity / dense.recovered.perplexity)


def _protocol(line: Protocol, without: Sequence[str] = ()) -> dict[str, Any]:
    return {name: getattr(line, name) for name in Protocol.model_fields if name not in without}
