"""A recipe: everything that decides what a compression does, validated at once, frozen, and kept with the result."""

from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import ValidationError, model_validator

from neuromeld.errors import UserInputError
from neuromeld.registry import Registry, unknown_name
from neuromeld.text import TEXT_SOURCES
from neuromeld.width.options import Frozen, Width


class Calibration(Frozen):
    """The text that statistics are taken from.  `tokens` in all, in windows of `seqlen`, documents drawn by `seed`."""

    text: str = "wikipedia-sample"
    tokens: int = 32768
    seqlen: int = 512
    seed: int = 0

    @model_validator(mode="after")
    def _consistent(self) -> "Calibration":
        problems = []
        if not self.text.startswith("file:") and self.text not in TEXT_SOURCES:
            problems.append(unknown_name(TEXT_SOURCES.kind, self.text, list(TEXT_SOURCES)))
        if self.seqlen < 2:
            problems.append(f"seqlen={self.seqlen} must be at least 2 tokens")
        if self.tokens < self.seqlen:
            problems.append(f"tokens={self.tokens} is less than one window of seqlen={self.seqlen}")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class Recipe(Frozen):
    """`output`: `stock` loads in plain transformers, `native` in neuromeld's wrapper, `auto` is stock if possible."""

    width: Width
    calibration: Calibration = Calibration()
    output: Literal["auto", "stock", "native"] = "auto"

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(exclude_none=True), sort_keys=False)


_SHIPPED = Path(__file__).parent / "recipes"
RECIPES: Registry[Path] = Registry("recipe", {path.stem: path for path in sorted(_SHIPPED.glob("*.yaml"))})
"""The recipes that come with the package, by name."""


def parse_recipe(data: Any) -> Recipe:
    """Validate a recipe given as nested mappings; every mistake is reported at once, as one `UserInputError`."""
    return validate(Recipe, data)


def load_recipe(name_or_path: str) -> Recipe:
    """A recipe by the name it ships under, or from a YAML file."""
    return parse_recipe(read_yaml(name_or_path, RECIPES))


T = TypeVar("T", bound=Frozen)


def validate(kind: type[T], data: Any) -> T:
    """A recipe of this kind from nested mappings; every mistake is reported at once, as one `UserInputError`."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        problems = "\n".join(_explain(kind, e) for e in error.errors())
        raise UserInputError(f"the recipe is not valid:\n{problems}") from None


def read_yaml(name_or_path: str, shipped: Registry[Path]) -> Any:
    """The content of a YAML file, or of the shipped one with this name."""
    path = Path(name_or_path) if name_or_path.endswith((".yaml", ".yml")) else shipped[name_or_path]
    try:
        return yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserInputError(f"cannot read the recipe {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise UserInputError(f"{path} is not valid YAML: {error}") from None


def _explain(kind: type[Frozen], error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        *parents, key = error["loc"]
        fields: Any = kind
        for parent in parents:
            fields = fields.model_fields[parent].annotation
        return "- " + unknown_name("recipe key", str(key), list(fields.model_fields)).replace(repr(key), repr(where))
    message = error["msg"].removeprefix("Value error, ")
    return f"- {where}: {message}" if where else f"- {message}"
