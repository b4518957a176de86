"""The options that make up a recipe, said once for every command that takes one."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

import typer

from neuromeld.cli.generated_options import FieldOption, options_of, with_options
from neuromeld.data.calibration import Calibration
from neuromeld.errors import UserInputError
from neuromeld.planning import Budget, Objective
from neuromeld.planning.recipe import Recipe, load_recipe, parse_recipe
from neuromeld.stages import STAGES

DEFAULT_RECIPE = "default"


@dataclass(frozen=True)
class Request:
    """Request of a user: a recipe, or a budget for the planner with the settings of the recipe it is to find."""

    recipe: Recipe | None
    budget: Budget | None
    calibration: Calibration
    output: Literal["auto", "stock", "native"]


def takes_recipe(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a recipe and of a budget, in the place of its argument `asked`."""
    of_budget = list(inspect.signature(_budget).parameters.values())
    of_recipe = _parameters()

    def build(values: dict[str, Any]) -> Request:
        budget = _budget(**{p.name: values.pop(p.name) for p in of_budget})
        if budget is not None:
            given = {name: value for name, value in values.items() if value is not None and name not in _SETTINGS}
            if given:
                raise UserInputError(f"{_flags(given)}: with a budget the planner chooses the stages; leave it out")
        recipe = build_recipe(**values)
        return Request(recipe if budget is None else None, budget, recipe.calibration, recipe.output)

    return with_options(command, "asked", [*of_budget, *of_recipe], build)


def _budget(
    keep: Annotated[
        float | None,
        typer.Option(rich_help_panel="Budget", help="Share of the parameters to keep; the planner finds out how."),
    ] = None,
    params: Annotated[
        str | None, typer.Option(rich_help_panel="Budget", help="Parameters to keep, as 100000000 or 100M.")
    ] = None,
    flops: Annotated[
        float | None, typer.Option(rich_help_panel="Budget", help="Share of the operations per token to keep.")
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            rich_help_panel="Budget",
            help="What --keep is a share of: params (default), flops, or latency, measured here.",
        ),
    ] = None,
) -> Budget | None:
    """The budget, where one was given."""
    if keep is None and params is None and flops is None and objective is None:
        return None
    return Budget(
        keep=keep,
        params=None if params is None else _number(params),
        flops=flops,
        objective=cast(Objective, objective or "params"),
    )


def _number(text: str) -> int:
    """A count with an optional suffix K, M or B."""
    scale = {"K": 10**3, "M": 10**6, "B": 10**9}.get(text[-1:].upper(), 1)
    try:
        return round(float(text if scale == 1 else text[:-1]) * scale)
    except (ValueError, OverflowError):  # no number, or infinity
        raise UserInputError(
            f"--params {text} must be a number, with K, M or B behind it where that is shorter"
        ) from None


BASE = "recipe"
"""The parameter of `--recipe`."""

STAGE_OPTIONS: list[FieldOption] = [
    option for stage in STAGES for option in options_of(stage.Options, stage.name, stage.prefix, "Stages")
]
CALIBRATION_OPTIONS: list[FieldOption] = options_of(Calibration, "calibration", "", "Calibration")


def _parameters() -> list[inspect.Parameter]:
    """Return the parameters of a command that takes a recipe."""
    recipe = typer.Option(
        "--recipe",
        help="A YAML file, or the name of a recipe that ships (list recipes).",
        show_default=False,
        rich_help_panel="Stages",
    )
    stock = typer.Option(
        "--stock/--native", help="Insist on one output format.", show_default=False, rich_help_panel="Output"
    )
    keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return [
        inspect.Parameter(BASE, keyword, default=None, annotation=Annotated[str | None, recipe]),
        *(option.signature() for option in (*STAGE_OPTIONS, *CALIBRATION_OPTIONS)),
        inspect.Parameter("stock", keyword, default=None, annotation=Annotated[bool | None, stock]),
    ]


def build_recipe(**given: Any) -> Recipe:
    """Return the recipe of `--recipe`, with every option that was given in the place of its own.

    given   by parameter: `recipe`, `stock`, and those of `STAGE_OPTIONS` and `CALIBRATION_OPTIONS`; None is not given

    Without `--recipe`, the stages that options name; without those, the default recipe.
    """
    given = {name: value for name, value in given.items() if value is not None}
    options = [option for option in STAGE_OPTIONS if option.parameter in given]
    named = any(option.target for option in options)
    chosen: dict[str, Any] = {}
    if BASE in given or not named:
        chosen = load_recipe(given.get(BASE, DEFAULT_RECIPE)).model_dump(exclude_none=True)
    for stage in STAGES:
        own = [option for option in options if option.owner == stage.name]
        if any(option.target for option in own):
            targets = {option.field for option in STAGE_OPTIONS if option.owner == stage.name and option.target}
            chosen[stage.name] = {k: v for k, v in chosen.get(stage.name, {}).items() if k not in targets}
        elif own and stage.name not in chosen:
            asked = {option.parameter: given[option.parameter] for option in own}
            raise UserInputError(f"{_flags(asked)}: there is no stage {stage.name} that this could apply to")
        for option in own:
            chosen[stage.name][option.field] = option.value(given[option.parameter])
    calibration = [option for option in CALIBRATION_OPTIONS if option.parameter in given]
    texts = {option.field: given[option.parameter] for option in calibration}
    chosen["calibration"] = chosen.get("calibration", {}) | texts
    if "stock" in given:
        chosen["output"] = "stock" if given["stock"] else "native"
    return parse_recipe(chosen)


_SETTINGS = ("stock", *(option.parameter for option in CALIBRATION_OPTIONS))


def _flags(values: dict[str, Any]) -> str:
    return ", ".join(f"--{key.replace('_', '-')} {value}" for key, value in values.items())
