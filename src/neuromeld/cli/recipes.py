"""The options that make up a recipe, said once for every command that takes one."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from neuromeld.cli.generated_options import FieldOption, options_of, parameter, with_options
from neuromeld.cli.options import MACHINE, OUTPUT, num_bytes
from neuromeld.data.calibration import Calibration
from neuromeld.errors import UserInputError
from neuromeld.planning import Budget
from neuromeld.planning.effort import EFFORTS, STANDARD
from neuromeld.planning.recipe import Recipe, load_recipe, parse_recipe
from neuromeld.planning.served import OutputFormat
from neuromeld.planning.serving import SERVED_DTYPES, Serving
from neuromeld.stages import STAGES

DEFAULT_RECIPE = "default"


@dataclass(frozen=True)
class Request:
    """Request of a user: a recipe, or a budget for the planner with the settings of the recipe it is to find.

    max_memory, device_memory   in bytes
    vocab_from   text that the planner may choose tokens by
    further      budgets beside the first
    effort       how much the planner tries, by name
    rank_after   tokens that the planner trains finalists on before it compares them
    """

    recipe: Recipe | None
    budget: Budget | None
    calibration: Calibration
    output: OutputFormat
    max_memory: int | None
    vocab_from: str | None = None
    further: tuple[Budget, ...] = ()
    effort: str = STANDARD.name
    device_memory: int | None = None
    rank_after: int | None = None


def takes_recipe(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a recipe and of a budget, in the place of its argument `asked`."""

    def build(values: dict[str, Any]) -> Request:
        limit, on_device = values.pop(MAX_MEMORY.name), values.pop(DEVICE_MEMORY.name)
        budgets = _budgets(**{p.name: values.pop(p.name) for p in BUDGET_OPTIONS})
        budget, further = budgets[0] if budgets else None, tuple(budgets[1:])
        vocab_from, effort, rank_after = None, values.pop(EFFORT.name), values.pop(RANK_AFTER.name)
        for flag, value in (("--effort", effort), ("--rank-after", rank_after)):
            if budget is None and value is not None:
                raise UserInputError(
                    f"{flag} {value} is for the planner; give a budget, as --keep 0.8, or leave it out"
                )
        effort = EFFORTS[effort or STANDARD.name].name
        if budget is not None:
            vocab_from = values.pop(VOCAB_FROM)
            given = {name: value for name, value in values.items() if value is not None and name not in _SETTINGS}
            if given:
                raise UserInputError(f"{_flags(given)}: with a budget the planner chooses the stages; leave it out")
        recipe = build_recipe(**values)
        asked = recipe if budget is None else None
        request = Request(asked, budget, recipe.calibration, recipe.output, num_bytes(limit), vocab_from, further)
        tokens = None if rank_after is None else _number(rank_after, "--rank-after")
        device_memory = num_bytes(on_device, "--device-memory")
        return replace(request, effort=effort, device_memory=device_memory, rank_after=tokens)

    return with_options(
        command, "asked", [*BUDGET_OPTIONS, EFFORT, RANK_AFTER, *_parameters(), MAX_MEMORY, DEVICE_MEMORY], build
    )


BUDGET_OPTIONS = [
    parameter(
        "--keep",
        str | None,
        "Share of the parameters to keep; the planner finds out how. Of several, as 0.9,0.8, each has its own folder.",
        "Budget",
    ),
    parameter("--params", str | None, "Parameters to keep, as 100000000 or 100M.", "Budget"),
    parameter("--flops", float | None, "Share of the operations per token to keep.", "Budget"),
    parameter(
        "--objective",
        str | None,
        "What --keep is a share of: params (default), flops, or latency, measured here.",
        "Budget",
    ),
    parameter(
        "--max-loss",
        str | None,
        "What may be lost on validation text, as 0.1 nats per token or 2% of next-token accuracy: the smallest model "
        "that loses no more.",
        "Budget",
        metavar="NATS|SHARE%",
    ),
    parameter(
        "--memory",
        str | None,
        "Memory while it is served, as 300MB: weights, and keys and values.",
        "Budget",
        metavar="SIZE",
    ),
    parameter("--batch", int | None, "Of --memory: texts that are served at a time; by default 1.", "Budget"),
    parameter("--context", int | None, "Of --memory: tokens of each text; by default 2048.", "Budget"),
    parameter(
        "--served-dtype",
        str | None,
        f"Of --memory: {', '.join(SERVED_DTYPES)}; by default that of the weights.",
        "Budget",
    ),
]
EFFORT_HELP = f"How much the planner tries: {', '.join(EFFORTS)}; by default {STANDARD.name}."
EFFORT = parameter("--effort", str | None, EFFORT_HELP, "Budget")
RANK_AFTER = parameter(
    "--rank-after",
    str | None,
    "Tokens, as 32K, that the planner trains the finalists on before it compares them; what is written is not trained.",
    "Budget",
    metavar="TOKENS",
)
MAX_MEMORY = parameter(
    "--max-memory",
    str | None,
    "Memory limit, as 2GB: a job that would take more leaves the weights on the disk.",
    MACHINE,
    metavar="SIZE",
)

DEVICE_MEMORY = parameter(
    "--device-memory",
    str | None,
    "The same of the device, as 4GB: weights of a job that would take more come there a layer at a time.",
    MACHINE,
    metavar="SIZE",
)


def _budgets(**given: Any) -> list[Budget]:
    """Return the budgets that were given, of which only shares may be several; the largest first."""
    given = {name: value for name, value in given.items() if value is not None}
    if not given:
        return []
    serving = {name.removeprefix("served_"): given.pop(name) for name in _SERVING if name in given}
    if serving and "memory" not in given:
        raise UserInputError(f"{_flags(serving)}: this is for --memory SIZE; give it, or leave this out")
    rest: dict[str, Any] = {name: given[name] for name in ("flops", "max_loss", "objective") if name in given}
    if "params" in given:
        rest["params"] = _number(given["params"], "--params")
    if "memory" in given:
        rest |= {"memory": num_bytes(given["memory"], "--memory"), "serving": Serving(**serving)}
    return [Budget(keep=share, **rest) for share in (shares(given["keep"]) if "keep" in given else [None])]


_SERVING = ("batch", "context", "served_dtype")


def shares(text: str) -> list[float]:
    """Return shares with commas between, in descending order."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        raise UserInputError(f"--keep {text} must be a share, as 0.8, or several, as 0.9,0.8,0.7") from None
    if len(set(found)) < len(found):
        raise UserInputError(f"--keep {text} names a share twice; name each once")
    return sorted(found, reverse=True)


def _number(text: str, flag: str) -> int:
    """Return a count with an optional suffix K, M or B."""
    scale = {"K": 10**3, "M": 10**6, "B": 10**9}.get(text[-1:].upper(), 1)
    try:
        return round(float(text if scale == 1 else text[:-1]) * scale)
    except (ValueError, OverflowError):  # no number, or infinity
        raise UserInputError(
            f"{flag} {text} must be a number, with K, M or B behind it where that is shorter"
        ) from None


BASE = "recipe"
"""The parameter of `--recipe`."""

STAGE_OPTIONS: list[FieldOption] = [
    option for stage in STAGES for option in options_of(stage.Options, stage.name, stage.prefix, "Stages")
]
VOCAB_FROM = next(o.parameter for o in STAGE_OPTIONS if (o.owner, o.field) == ("vocabulary", "text"))
"""The option of a stage that goes with a budget: a text that the planner may choose tokens by."""

CALIBRATION_OPTIONS: list[FieldOption] = options_of(Calibration, "calibration", "", "Calibration")


def _parameters() -> list[inspect.Parameter]:
    """Return the parameters of a command that takes a recipe."""
    return [
        parameter("--recipe", str | None, "A YAML file, or the name of a recipe that ships (list recipes).", "Stages"),
        *(option.signature() for option in (*STAGE_OPTIONS, *CALIBRATION_OPTIONS)),
        parameter("--stock/--native", bool | None, "Insist on one output format.", OUTPUT),
        parameter(
            "--for",
            str | None,
            "Insist on a result that these engines load, as vllm,llama.cpp.",
            OUTPUT,
            metavar="ENGINES",
        ),
    ]


def build_recipe(**given: Any) -> Recipe:
    """Return the recipe of `--recipe`, with every option that was given in the place of its own.

    given   by parameter: `recipe`, `stock`, `for_`, and those of `STAGE_OPTIONS` and `CALIBRATION_OPTIONS`; None is
            not given

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
    if "stock" in given and "for_" in given:
        raise UserInputError("--for finds out which format its engines load; leave --stock or --native out")
    if "stock" in given:
        chosen["output"] = "stock" if given["stock"] else "native"
    if "for_" in given:
        chosen["output"] = given["for_"]
    return parse_recipe(chosen)


_SETTINGS = ("stock", "for_", *(option.parameter for option in CALIBRATION_OPTIONS))


def _flags(values: dict[str, Any]) -> str:
    return ", ".join(f"--{key.replace('_', '-')} {value}" for key, value in values.items())
