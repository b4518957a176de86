"""A recipe: everything that decides what a compression does, validated at once, frozen, and kept with the result."""

from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import ValidationError, model_validator

from neuromeld.errors import UserInputError
from neuromeld.neurons.options import Ffn, Heads
from neuromeld.registry import Registry, unknown_name
from neuromeld.settings import Frozen
from neuromeld.sublayers.options import DeleteFfs, DropLayers, MergeFfs
from neuromeld.width.options import Width

BATCH_WINDOWS = 4
"""Windows in one calibration batch, at most."""


class Calibration(Frozen):
    """The data that statistics are taken from: `tokens` in all, in windows of `seqlen`, drawn by `seed`.

    source  a named one or `file:PATH`; None is the usual one for the inputs of the model
    """

    source: str | None = None
    tokens: int = 32768
    seqlen: int = 512
    seed: int = 0

    @model_validator(mode="after")
    def _consistent(self) -> "Calibration":
        problems = []
        if self.seqlen < 2:
            problems.append(f"seqlen={self.seqlen} must be at least 2 tokens")
        if self.tokens < self.seqlen:
            problems.append(f"tokens={self.tokens} is less than one window of seqlen={self.seqlen}")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class Recipe(Frozen):
    """The stages of a compression, run in this order; at least one is given.

    drop_layers  remove whole layers
    delete_ffs   remove FFNs, and keep the attention of their layers
    heads        take out groups of attention heads
    ffn          narrow the hidden layer of the FFNs
    width        narrow the residual stream
    merge_ffs    let adjacent FFNs share their weights
    output       `stock` loads in plain transformers, `native` in neuromeld's wrapper, `auto` is stock if possible
    """

    drop_layers: DropLayers | None = None
    delete_ffs: DeleteFfs | None = None
    heads: Heads | None = None
    ffn: Ffn | None = None
    width: Width | None = None
    merge_ffs: MergeFfs | None = None
    calibration: Calibration = Calibration()
    output: Literal["auto", "stock", "native"] = "auto"

    @property
    def stages(self) -> list[str]:
        """The names of the stages that are given, in order."""
        return [name for name in STAGES if getattr(self, name) is not None]

    @property
    def searches(self) -> bool:
        """Whether a window of layers is chosen by its loss."""
        removed = (stage for stage in (self.drop_layers, self.delete_ffs) if stage is not None)
        merge = self.merge_ffs
        return any(stage.layers is None for stage in removed) or (merge is not None and merge.window is None)

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if not self.stages:
            raise ValueError("nothing to do: give at least one stage of " + ", ".join(STAGES))
        if self.delete_ffs is not None and (self.ffn is not None or self.merge_ffs is not None):
            raise ValueError("delete_ffs decides over whole FFNs: leave out ffn and merge_ffs")
        if self.merge_ffs is not None and self.width is not None and self.width.basis != "shared":
            raise ValueError("merge_ffs needs width.basis=shared: FFNs in different bases have nothing in common")
        if self.merge_ffs is not None and self.ffn is not None and isinstance(self.ffn.size, tuple):
            raise ValueError("merge_ffs needs FFNs of one width: give ffn.size as one number, or ffn.ratio")
        return self

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(exclude_none=True), sort_keys=False)


STAGES = ("drop_layers", "delete_ffs", "heads", "ffn", "width", "merge_ffs")

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


def _explain(kind: type[Frozen], error: Any, what: str) -> str:
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
