"""The base of everything a user sets: immutable, an unknown key is an error, and so is a number beyond all reason."""

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

MOST = 2**50
"""More layers, neurons, tokens or steps than there are; what is computed from such a number may not fit anywhere."""

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What every generator of random numbers takes."""


class Settings(BaseModel):
    """Immutable; an unknown key is an error, numbers are finite, and whole ones at most `MOST`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _within_reason(cls, value: Any) -> Any:
        if any(abs(number) > MOST for number in _counts(value)):
            raise ValueError(f"a number beyond {MOST:,} is more than there is of anything")
        return value


def _counts(value: Any) -> Iterator[int]:
    if isinstance(value, int):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _counts(part)


def check_ratio(name: str, value: float | None) -> float | None:
    """Return `value`, which is None or a kept share in (0, 1]; `ValueError` otherwise."""
    if value is not None and not 0 < value <= 1:
        raise ValueError(f"{name}={value} is outside (0, 1]; it is what is kept: for 20 % smaller pass 0.8")
    return value
