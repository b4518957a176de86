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


class Scored(Settings):
    """Scores of a model.

    scores   by name, those of the kind of input: `perplexity`, or `loss` where the tokens are others than the dense
             model's, and `bits_per_byte`; `accuracy` and `loss`; `bleu`, `chrf` and `loss`; `word_error_rate` and
             `loss`
    correct  one digit an example, 1 where it was right, where right and wrong can be told apart
    """

    scores: dict[str, float]
    correct: str | None = None

    @property
    def loss(self) -> float | None:
        """Nats per prediction of the dense model; None where it was not measured."""
        return math.log(self.scores["perplexity"]) if "perplexity" in self.scores else self.scores.get("loss")


class Recovered(Scored):
    """A row after the recovery of its protocol; `loss_curve` has the mean training loss up to each step."""

    bf16: bool
    tokens_seen: int
    loss_curve: list[dict[str, float]]
    seconds: float


class Line(Protocol, Scored):
    """One measured row, its `scores` empty where it was measured after recovery only.

    by_text            scores on the further texts of the protocol, by source
    asked              the row as the grid has it; None in lines from before it was recorded
    recipe             what was run, free sizes set and the planner's choice made
    candidates         what the planner weighed
    told               what stages say of it that read the processor
    seconds            of planning, compressing and evaluating
    recovered          the same model tuned, with a recovery in the protocol
    evaluation_sha256  of what was measured on
    """

    row: str
    keep: float | None = None
    by_text: dict[str, dict[str, float]] | None = None
    parameters: int
    flops_per_token: int | None = None
    asked: dict[str, Any] | None = None
    recipe: dict[str, Any] | None = None
    candidates: list[dict[str, Any]] | None = None
    told: list[str] | None = None
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
        if path.exists():
            for number, text in enumerate(_lines(path), start=1):
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
        """Return the line of a case, None where it was not measured yet or its row meant something else then."""
        if case.row is None:
            return self._of_dense(case.protocol)
        asked = row_as_asked(case)
        for line in self.lines:
            same = (line.row, line.keep) == (case.name, case.keep) and _protocol(line) == _protocol(case.protocol)
            if same and line.asked in (None, asked):
                return line
        return None

    def dense(self, line: Line) -> Line | None:
        """Return the line of the dense model on the same data, which a line is compared with."""
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


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserInputError(f"{path} cannot be read as results: {error}; write to another file") from error


def row_as_asked(case: Case) -> dict[str, Any] | None:
    """Return the row of a case as its line keeps it."""
    return None if case.row is None else case.row.model_dump(exclude_none=True, mode="json")


def excess_loss(line: Line, dense: Line) -> float | None:
    """Return the loss over that of the dense model, in nats per prediction; None where either was not measured."""
    return _difference(line, dense)


def recovered_loss(line: Line, dense: Line) -> float | None:
    """Return the same after recovery, over the dense model that was tuned alike."""
    return _difference(line.recovered, dense.recovered)


def _difference(scored: Scored | None, dense: Scored | None) -> float | None:
    if scored is None or dense is None or scored.loss is None or dense.loss is None:
        return None
    return scored.loss - dense.loss


def _protocol(line: Protocol, without: Sequence[str] = ()) -> dict[str, Any]:
    return {name: getattr(line, name) for name in Protocol.model_fields if name not in without}
