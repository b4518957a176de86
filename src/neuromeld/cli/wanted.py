"""What `neuromeld evaluate` is asked to measure on, where a model reads something else than text."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EvalData:
    """The data to measure on, and how many examples of it, from the first; None is the usual one, and all."""

    data: str | None
    limit: int | None
