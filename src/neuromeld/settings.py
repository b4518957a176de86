"""The base of everything a user sets: immutable, an unknown key is an error, and so is a number beyond all reason."""

from collections.abc import Iterator, Sequence
from textwrap import shorten
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from neuromeld.errors import UserInputError
from neuromeld.registry import unknown_name

MOST = 2**50
"""More layers, neurons, tokens or steps than there are; what is computed from such a number may not fit anywhere."""

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What every generator of random numbers takes."""

Passes = Literal["auto", "own", "bfloat16"]
PASSES = (
    "Format of forward passes: own is that of the weights; bfloat16 is for weights in float32; auto is bfloat16 for "
    "16 million of them and more, where the device multiplies in it."
)


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


T = TypeVar("T", bound=Settings)


def validate(kind: type[T], data: Any, what: str = "recipe") -> T:
    """Settings of this kind from nested mappings; every mistake is reported at once, as one `UserInputError`."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        problems = "\n".join(_explain(kind, e, what) for e in error.errors())
        raise UserInputError(f"the {what} cannot be used:\n{problems}") from None


def _settings_at(kind: Any, path: Sequence[Any]) -> Any:
    """Return the settings class at a path of keys; the key of a mapping `dict[str, Class]` is one of its own."""
    steps = iter(path)
    for step in steps:
        annotation = kind.model_fields[step].annotation
        kind = next(part for part in (annotation, *get_args(annotation)) if hasattr(part, "model_fields"))
        if get_origin(annotation) is dict:
            next(steps)
    return kind


def _explain(kind: type[Settings], error: Any, what: str) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        *parents, key = error["loc"]
        names = list(_settings_at(kind, parents).model_fields)
        return "- " + unknown_name(f"{what} key", str(key), names).replace(repr(key), repr(where))
    message = error["msg"].removeprefix("Value error, ")
    if message == error["msg"] and error["type"] != "missing":
        message += f", not {shorten(repr(error['input']), 80)}"
    return f"- {where}: {message}" if where else f"- {message}"
