"""A recipe: everything that decides what a compression does, validated at once, frozen, and kept with the result."""

from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import ValidationError, model_validator

from neuromeld.data.calibration import Calibration
from neuromeld.errors import UserInputError
from neuromeld.registry import Registry, unknown_name
from neuromeld.settings import Settings
from neuromeld.stages.share_ffns.options import DropLayers, RemoveFfns, ShareFfns
from neuromeld.stages.width.options import Width
from neuromeld.units.options import Ffn, Heads


class Recipe(Settings):
    """The stages of a compression, run in this order; at least one is given.

    drop_layers  remove whole layers
    remove_ffns   remove FFNs, and keep the attention of their layers
    heads        take out groups of attention heads
    ffn          narrow the hidden layer of the FFNs
    width        narrow the residual stream
    share_ffns    let adjacent FFNs share their weights
    output       `stock` loads in plain transformers, `native` in neuromeld's wrapper, `auto` is stock if possible
    """

    drop_layers: DropLayers | None = None
    remove_ffns: RemoveFfns | None = None
    heads: Heads | None = None
    ffn: Ffn | None = None
    width: Width | None = None
    share_ffns: ShareFfns | None = None
    calibration: Calibration = Calibration()
    output: Literal["auto", "stock", "native"] = "auto"

    @property
    def stages(self) -> list[str]:
        """The names of the stages that are given, in order."""
        return [name for name in STAGES if getattr(self, name) is not None]

    @property
    def searches(self) -> bool:
        """Whether a window of layers is chosen by its loss."""
        removed = (stage for stage in (self.drop_layers, self.remove_ffns) if stage is not None)
        merge = self.share_ffns
        return any(stage.layers is None for stage in removed) or (merge is not None and merge.window is None)

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if not self.stages:
            raise ValueError("nothing to do: give at least one stage of " + ", ".join(STAGES))
        if self.remove_ffns is not None and (self.ffn is not None or self.share_ffns is not None):
            raise ValueError("remove_ffns decides over whole FFNs: leave out ffn and share_ffns")
        if self.share_ffns is not None and self.width is not None and self.width.basis != "shared":
            raise ValueError("share_ffns needs width.basis=shared: FFNs in different bases have nothing in common")
        if self.share_ffns is not None and self.ffn is not None and isinstance(self.ffn.size, tuple):
            raise ValueError("share_ffns needs FFNs of one width: give ffn.size as one number, or ffn.ratio")
        return self

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(exclude_none=True), sort_keys=False)


STAGES = ("drop_layers", "remove_ffns", "heads", "ffn", "width", "share_ffns")

_SHIPPED = Path(__file__).parent / "recipes"
RECIPES: Registry[Path] = Registry("recipe", {path.stem: path for path in sorted(_SHIPPED.glob("*.yaml"))})
"""The recipes that come with the package, by name."""


def parse_recipe(data: Any) -> Recipe:
    """Validate a recipe given as nested mappings; every mistake is reported at once, as one `UserInputError`."""
    return validate(Recipe, data)


def load_recipe(name_or_path: str) -> Recipe:
    """A recipe by the name it ships under, or from a YAML file."""
    return parse_recipe(read_yaml(name_or_path, RECIPES))


T = TypeVar("T", bound=Settings)


def validate(kind: type[T], data: Any, what: str = "recipe") -> T:
    """Settings of this kind from nested mappings; every mistake is reported at once, as one `UserInputError`."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        problems = "\n".join(_explain(kind, e, what) for e in error.errors())
        raise UserInputError(f"the {what} is not valid:\n{problems}") from None


def read_yaml(name_or_path: str, shipped: Registry[Path]) -> Any:
    """The content of a YAML file, or of the shipped one with this name."""
    return read_yaml_file(Path(name_or_path) if name_or_path.endswith((".yaml", ".yml")) else shipped[name_or_path])


def read_yaml_file(path: Path, what: str = "recipe") -> Any:
    """The content of a YAML file; `UserInputError` where there is none."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserInputError(f"cannot read the {what} {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise UserInputError(f"{path} is not valid YAML: {error}") from None


def _settings_of(annotation: Any) -> Any:
    """The settings class in an annotation that may be `Class | None` or `dict[str, Class]`."""
    return next((kind for kind in get_args(annotation) if hasattr(kind, "model_fields")), annotation)


def _explain(kind: type[Settings], error: Any, what: str) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        *parents, key = error["loc"]
        fields: Any = kind
        for parent in parents:
            if parent in fields.model_fields:  # and not a key of a mapping
                fields = _settings_of(fields.model_fields[parent].annotation)
        return "- " + unknown_name(f"{what} key", str(key), list(fields.model_fields)).replace(repr(key), repr(where))
    message = error["msg"].removeprefix("Value error, ")
    return f"- {where}: {message}" if where else f"- {message}"
