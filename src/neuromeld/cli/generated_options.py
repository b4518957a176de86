"""Options of the command line made from the fields of settings, so that each is said once."""

import functools
import inspect
import keyword
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from neuromeld.errors import UserInputError
from neuromeld.settings import Settings, validate

Decorator = Callable[[Callable[..., None]], Callable[..., None]]

S = TypeVar("S", bound=Settings)

MOST_NUMBERS = 100_000
"""In the list that an option names."""


@dataclass(frozen=True)
class FieldOption:
    """One option: the field it sets, and how it stands on the command line.

    owner   name of the settings that the field belongs to
    target  whether it takes the place of the owner's other targets
    """

    owner: str
    field: str
    flag: str
    info: FieldInfo
    panel: str
    target: bool

    @property
    def parameter(self) -> str:
        """The name of the parameter that typer fills."""
        return _parameter_name(self.flag)

    def signature(self) -> inspect.Parameter:
        """Return the parameter of a command for it; None where it was not given."""
        kinds = _kinds(self.info.annotation)
        flag = f"{self.flag}/--no-{self.flag.removeprefix('--')}" if bool in kinds else self.flag
        kind: Any = next((kind for kind in (bool, float, int) if kind in kinds and tuple not in kinds), str)
        metavar = _extra(self.info).get("metavar")
        return parameter(flag, kind | None, self.info.description or "", self.panel, metavar=metavar)

    def value(self, given: Any) -> Any:
        """Return what was given as the field takes it."""
        kinds = _kinds(self.info.annotation)
        if tuple not in kinds or not isinstance(given, str):
            return given
        if _extra(self.info).get("metavar") == "FIRST-LAST":
            return list(_span(self.flag, given))
        if float in _elements(self.info.annotation):
            return _reals(self.flag, given)
        numbers = _numbers(self.flag, given)
        return numbers[0] if int in kinds and len(numbers) == 1 else numbers


def parameter(
    flag: str, kind: Any, description: str, panel: str, default: Any = None, metavar: Any = None
) -> inspect.Parameter:
    """Return the parameter of a command for one option.

    Its name is that of the flag, or of the first of two; with _ behind it where Python has the word.
    """
    shown = default is not None and default is not False
    said = typer.Option(flag, help=description, metavar=metavar, show_default=shown, rich_help_panel=panel)
    name = _parameter_name(flag)
    return inspect.Parameter(
        name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=Annotated[kind, said]
    )


def _parameter_name(flag: str) -> str:
    name = flag.partition("/")[0].removeprefix("--").replace("-", "_")
    return f"{name}_" if keyword.iskeyword(name) else name


def options_of(settings: type[Settings], owner: str, prefix: str, panel: str) -> list[FieldOption]:
    """Return an option for each field of some settings, in order."""
    found = []
    for name, info in settings.model_fields.items():
        extra = _extra(info)
        words = name.replace("_", "-")
        flag = (
            extra.get("flag") or f"--{words if words.startswith(f'{prefix}-') or not prefix else f'{prefix}-{words}'}"
        )
        found.append(FieldOption(owner, name, str(flag), info, panel, bool(extra.get("target"))))
    return found


def with_options(
    command: Callable[..., None],
    argument: str,
    parameters: Sequence[inspect.Parameter],
    build: Callable[[dict[str, Any]], Any],
) -> Callable[..., None]:
    """Give a command options in the place of its parameter `argument`, which becomes what `build` makes of them."""
    own = [p for p in inspect.signature(command).parameters.values() if p.name != argument]

    @functools.wraps(command)
    def run(**values: Any) -> None:
        given = {p.name: values.pop(p.name) for p in parameters}
        command(**{argument: build(given)}, **values)

    arguments = [p for p in own if p.default is p.empty]
    everything = [*arguments, *parameters, *(p for p in own if p.default is not p.empty)]
    run.__signature__ = inspect.Signature(everything)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in everything}
    return run


def with_settings(argument: str, kind: type[S], panel: str, **defaults: Any) -> Decorator:
    """Return a decorator that gives a command an option for each field of some settings, in the place of `argument`.

    defaults   for fields, in the place of their own
    """
    options = options_of(kind, argument, "", panel)

    def build(values: dict[str, Any]) -> S:
        given = {option.field: values[option.parameter] for option in options}
        stated = {name: value for name, value in given.items() if value is not None}
        return validate(kind, defaults | stated, argument)

    return lambda command: with_options(command, argument, [option.signature() for option in options], build)


def _extra(info: FieldInfo) -> Mapping[str, Any]:
    extra = info.json_schema_extra
    return extra if isinstance(extra, Mapping) else {}


def _parts(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _kinds(annotation: Any) -> set[Any]:
    """Return the plain types in an annotation."""
    return {get_origin(part) if get_origin(part) is not Literal else str for part in _parts(annotation)} | {
        part for part in _parts(annotation) if get_origin(part) is None
    }


def _elements(annotation: Any) -> set[Any]:
    """Return the types of what the lists in an annotation hold."""
    return {kind for part in _parts(annotation) if get_origin(part) is tuple for kind in get_args(part)}


def _reals(flag: str, text: str) -> list[float]:
    """Return numbers as 1e-4,3e-4 names them."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UserInputError(f"{flag} {text} must be numbers with commas between, as 1e-4,3e-4") from None


def _span(flag: str, text: str) -> tuple[int, int]:
    if not (match := re.fullmatch(r"([0-9]{1,6})-([0-9]{1,6})", text)) or int(match[1]) > int(match[2]):
        raise UserInputError(f"{flag} {text} must be FIRST-LAST, the first and the last layer, counted from 0")
    return int(match[1]), int(match[2])


def _numbers(flag: str, text: str) -> list[int]:
    """Return numbers as 8 or 3-5,8 name them."""
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", part.strip())
        if match is None:
            raise UserInputError(f"{flag} {text} must be numbers with commas between, or first-last, as 3-5,8")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UserInputError(f"{flag} {text} names no number from {first} to {last}: write the lower one first")
        if last - first > MOST_NUMBERS or len(numbers) > MOST_NUMBERS:
            raise UserInputError(f"{flag} {text} names more than {MOST_NUMBERS:,} numbers")
        numbers += range(first, last + 1)
    return numbers
