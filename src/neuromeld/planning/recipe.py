"""A recipe: everything that decides what a compression does, validated at once, frozen, and kept with the result."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, create_model, model_validator
from transformers import PretrainedConfig

from neuromeld.data.calibration import Calibration
from neuromeld.planning.served import OutputFormat
from neuromeld.registry import Registry
from neuromeld.runtime.yaml_text import read_yaml_file
from neuromeld.settings import Settings, validate
from neuromeld.stages import STAGES
from neuromeld.stages.base import AnyStage


@dataclass(frozen=True)
class Chosen:
    """A stage of a recipe and its options."""

    stage: AnyStage
    options: Any


class Recipe(Settings):
    """A compression as data: the options of each stage under its name, calibration and output; at least one stage.

    Stages run in the order of `neuromeld.stages.STAGES`.  `parse_recipe` makes one.
    """

    calibration: Calibration = Field(Calibration(), description="Calibration data.")
    output: OutputFormat = Field(
        "auto",
        description="Format of the result: stock loads in plain transformers, native with neuromeld's code; auto is "
        "stock where that is possible; or engines that must load it, as vllm,llama.cpp, by an export where it is "
        "native.",
    )

    @property
    def chosen(self) -> list[Chosen]:
        """The stages that are given, with their options, in order."""
        given = ((stage, getattr(self, stage.name, None)) for stage in STAGES)
        return [Chosen(stage, options) for stage, options in given if options is not None]

    @property
    def stages(self) -> list[str]:
        """The names of the stages that are given, in order."""
        return [chosen.stage.name for chosen in self.chosen]

    @property
    def searches(self) -> bool:
        """Whether a window of layers is chosen by its loss."""
        return any(chosen.stage.searches(chosen.options) for chosen in self.chosen)

    @property
    def holds_out(self) -> bool:
        """Whether part of the calibration data is held out."""
        return any(chosen.stage.holds_out(chosen.options) for chosen in self.chosen)

    @property
    def reads_processor(self) -> bool:
        """Whether a stage needs the model's tokenizer, or other processor."""
        return any(chosen.stage.reads_processor for chosen in self.chosen)

    def settled(self, processor: Any, config: PretrainedConfig) -> tuple["Recipe", list[str]]:
        """Return the recipe with what only the processor tells filled in, and what a plan says of that."""
        settled, told = {}, []
        for chosen in self.chosen:
            settled[chosen.stage.name], said = chosen.stage.settle(chosen.options, processor, config)
            told += said
        return self.model_copy(update=settled), told

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if not self.chosen:
            raise ValueError("nothing to do: give at least one stage of " + ", ".join(stage.name for stage in STAGES))
        given = {chosen.stage.name: chosen.options for chosen in self.chosen}
        problems = [
            problem
            for chosen in self.chosen
            for problem in chosen.stage.conflicts(
                chosen.options, {name: options for name, options in given.items() if name != chosen.stage.name}
            )
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def to_yaml(self) -> str:
        """Return the recipe as YAML, the stages first."""
        stated = self.model_dump(exclude_none=True, mode="json")
        stages = {name: stated.pop(name) for name in self.stages}
        return yaml.safe_dump(stages | stated, sort_keys=False)


def recipe_model() -> type[Recipe]:
    """Return the model that recipes are validated by: `Recipe` with a key for every stage."""
    return _recipe_model(tuple(STAGES))


@lru_cache
def _recipe_model(stages: tuple[AnyStage, ...]) -> type[Recipe]:
    keys: dict[str, Any] = {
        stage.name: (stage.Options | None, Field(None, description=(stage.Options.__doc__ or "").split("\n")[0]))
        for stage in stages
    }
    return create_model("Recipe", __base__=Recipe, **keys)


_SHIPPED = Path(__file__).parent / "recipes"
RECIPES: Registry[Path] = Registry("recipe", {path.stem: path for path in sorted(_SHIPPED.glob("*.yaml"))})
"""The recipes that come with the package, by name."""


def parse_recipe(data: Any) -> Recipe:
    """Validate a recipe given as nested mappings; every mistake is reported at once, as one `UserInputError`."""
    return validate(recipe_model(), data)


def load_recipe(name_or_path: str) -> Recipe:
    """Load a recipe by the name it ships under, or from a YAML file."""
    return parse_recipe(read_yaml(name_or_path, RECIPES))


def read_yaml(name_or_path: str, shipped: Registry[Path]) -> Any:
    """Return the content of a YAML file, or of the shipped one with this name."""
    path = Path(name_or_path) if name_or_path.endswith((".yaml", ".yml")) else shipped[name_or_path]
    return read_yaml_file(path, "recipe")
