"""The base of everything a user sets: immutable, and an unknown key is an error."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def check_ratio(name: str, value: float | None) -> float | None:
    """`value`, which is None or a kept share in (0, 1]; `ValueError` otherwise."""
    if value is not None and not 0 < value <= 1:
        raise ValueError(f"{name}={value} is outside (0, 1]; it is what is kept: for 20 % smaller pass 0.8")
    return value
