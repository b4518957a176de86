"""The options that make up a recipe, said once for every command that takes one."""

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

import typer

from neuromeld.data.calibration import Calibration
from neuromeld.errors import UserInputError
from neuromeld.planning import Budget, Objective
from neuromeld.planning.recipe import Recipe, load_recipe, parse_recipe

DEFAULT_RECIPE = "default"


@dataclass(frozen=True)
class Request:
    """What a user asked for: a recipe, or a budget for the planner with the settings of the recipe it is to find."""

    recipe: Recipe | None
    budget: Budget | None
    calibration: Calibration
    output: Literal["auto", "stock", "native"]


def takes_recipe(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command, in the place of its argument `asked`, the options that `build_recipe` and a budget have."""
    own = [p for p in inspect.signature(command).parameters.values() if p.name != "asked"]
    of_budget = list(inspect.signature(_budget).parameters.values())
    of_recipe = list(inspect.signature(build_recipe).parameters.values())
    ours = [*of_budget, *of_recipe]

    @functools.wraps(command)
    def run(**values: Any) -> None:
        budget = _budget(**{p.name: values.pop(p.name) for p in of_budget})
        options = {p.name: values.pop(p.name) for p in of_recipe}
        if budget is not None:
            given = {name: value for name, value in options.items() if value is not None and name not in _SETTINGS}
            if given:
                raise UserInputError(f"{_flags(given)}: with a budget the planner chooses the stages; leave it out")
        recipe = build_recipe(**options)
        asked = Request(recipe if budget is None else None, budget, recipe.calibration, recipe.output)
        command(asked=asked, **values)

    arguments = [p for p in own if p.default is p.empty]
    parameters = [*arguments, *ours, *(p for p in own if p.default is not p.empty)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _budget(
    keep: Annotated[
        float | None, typer.Option(help="Budget: share of the parameters to keep; the planner finds out how.")
    ] = None,
    params: Annotated[str | None, typer.Option(help="Budget: parameters to keep, as 100000000 or 100M.")] = None,
    flops: Annotated[float | None, typer.Option(help="Budget: share of the operations per token to keep.")] = None,
    objective: Annotated[
        str | None, typer.Option(help="What --keep is a share of: params (default), flops, or latency, measured here.")
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


def build_recipe(
    recipe: Annotated[str | None, typer.Option("--recipe", help="A YAML file, or the name of one that ships.")] = None,
    hidden_ratio: Annotated[float | None, typer.Option(help="Share of the residual stream's width to keep.")] = None,
    hidden_size: Annotated[int | None, typer.Option(help="Width of the residual stream to narrow to.")] = None,
    ffn_ratio: Annotated[float | None, typer.Option(help="Share of the FFNs' hidden neurons to keep.")] = None,
    ffn_size: Annotated[int | None, typer.Option(help="Hidden neurons of each FFN to keep.")] = None,
    num_kv_heads: Annotated[int | None, typer.Option(help="Groups of attention heads of each layer to keep.")] = None,
    drop_layers: Annotated[int | None, typer.Option(help="Adjacent layers to remove.")] = None,
    remove_ffns: Annotated[int | None, typer.Option(help="Adjacent FFNs to remove; their attention stays.")] = None,
    share_ffns: Annotated[int | None, typer.Option(help="Adjacent FFNs to merge into one that they share.")] = None,
    window: Annotated[
        str | None,
        typer.Option(metavar="START-END", help="Layers to drop, or FFNs to delete or merge, counted from 0."),
    ] = None,
    anchor: Annotated[str | None, typer.Option(help="Of merged FFNs: first, middle or last.")] = None,
    align: Annotated[str | None, typer.Option(help="Of merged FFNs: permute or none.")] = None,
    combine: Annotated[
        str | None, typer.Option(help="Of merged FFNs: average or strongest, the default with a refit.")
    ] = None,
    gain: Annotated[str | None, typer.Option(help="Of merged FFNs, one for each: channel, scale or none.")] = None,
    rank: Annotated[int | None, typer.Option(help="Of merged FFNs: of a matrix that each keeps for itself.")] = None,
    selector: Annotated[str | None, typer.Option(help="What to keep; see `list methods`.")] = None,
    merge: Annotated[str | None, typer.Option(help="How the rest reaches it; see `list methods`.")] = None,
    compensate: Annotated[str | None, typer.Option(help="Of FFNs and heads: ridge, bias or none.")] = None,
    decoder: Annotated[str | None, typer.Option(help="Of the width: pinv, transport or ridge.")] = None,
    regularisation: Annotated[float | None, typer.Option(help="Of the width's transport, in median distances.")] = None,
    weighting: Annotated[str | None, typer.Option(help="The stream the width is chosen by: normalised or raw.")] = None,
    basis: Annotated[str | None, typer.Option(help="Of the width: shared, layer, or run:N.")] = None,
    refit: Annotated[bool | None, typer.Option("--refit/--no-refit", help="RidgeFit what reads the width.")] = None,
    stock: Annotated[bool | None, typer.Option("--stock/--native", help="Insist on one output format.")] = None,
    calibration: Annotated[str | None, typer.Option("--calibration", help="Named data, or file:PATH.")] = None,
    calibration_tokens: Annotated[int | None, typer.Option(help="Calibration tokens in all.")] = None,
    seqlen: Annotated[int | None, typer.Option("--seqlen", help="Tokens in one calibration window.")] = None,
    seed: Annotated[int | None, typer.Option(help="Draws the calibration documents.")] = None,
) -> Recipe:
    """The recipe of `--recipe`, with every option that was given in the place of its own.

    Without `--recipe`, the stages that options name; without those, the default recipe.
    """
    span = _span(window, drop_layers, remove_ffns, share_ffns)
    layers = None if span is None else {"layers": list(range(span[0], span[1] + 1))}
    targets: dict[str, dict[str, Any]] = {
        "drop_layers": layers if layers and drop_layers else _given(count=drop_layers),
        "remove_ffns": layers if layers and remove_ffns else _given(count=remove_ffns),
        "heads": _given(num_kv_heads=num_kv_heads),
        "ffn": _given(ratio=ffn_ratio, size=ffn_size),
        "width": _given(hidden_ratio=hidden_ratio, hidden_size=hidden_size),
        "share_ffns": _given(count=share_ffns) if span is None or share_ffns is None else {"window": span},
    }
    named = any(targets.values())
    chosen: dict[str, Any] = {}
    if recipe is not None or not named:
        chosen = load_recipe(recipe or DEFAULT_RECIPE).model_dump(exclude_none=True)
    for stage, target in targets.items():
        if target:
            kept = {k: v for k, v in chosen.get(stage, {}).items() if k not in _TARGETS}
            chosen[stage] = kept | target
    details = (
        (
            "width",
            _given(decoder=decoder, regularisation=regularisation, weighting=weighting, basis=basis, refit=refit),
        ),
        ("share_ffns", _given(anchor=anchor, align=align, combine=combine, gain=gain, rank=rank)),
    )
    for stage, values in details:
        if values and stage not in chosen:
            raise UserInputError(f"{_flags(values)}: there is no stage {stage} that this could apply to")
        chosen[stage] = chosen.get(stage, {}) | values
    _apply(chosen, {"selector": selector}, (("width",), ("ffn", "heads")))
    _apply(chosen, {"merge": merge}, (("width",), ("ffn",)))
    _apply(chosen, {"compensate": compensate}, (("ffn", "heads", "share_ffns"),))
    texts = _given(source=calibration, tokens=calibration_tokens, seqlen=seqlen, seed=seed)
    chosen["calibration"] = chosen.get("calibration", {}) | texts
    if stock is not None:
        chosen["output"] = "stock" if stock else "native"
    return parse_recipe({stage: value for stage, value in chosen.items() if value != {}})


_SETTINGS = ("stock", "calibration", "calibration_tokens", "seqlen", "seed")
_TARGETS = ("count", "window", "layers", "num_kv_heads", "ratio", "size", "hidden_ratio", "hidden_size")


def _apply(chosen: dict[str, Any], values: dict[str, Any], kinds: tuple[tuple[str, ...], ...]) -> None:
    """Set an option in the stages of the one kind that is there; each kind understands its own values."""
    values = _given(**values)
    if not values:
        return
    found = [[stage for stage in stages if chosen.get(stage)] for stages in kinds]
    found = [stages for stages in found if stages]
    if len(found) != 1:
        reason = "it could mean " + " or ".join(stages[0] for stages in found) if found else "no stage takes it"
        raise UserInputError(f"{_flags(values)}: {reason}; write a recipe file and pass it by --recipe")
    for stage in found[0]:
        chosen[stage] |= values


def _span(window: str | None, *counts_given: int | None) -> list[int] | None:
    if window is None:
        return None
    given = re.fullmatch(r"([0-9]{1,6})-([0-9]{1,6})", window)
    span = [int(number) for number in given.groups()] if given else [1, 0]
    if span[0] > span[1]:
        raise UserInputError(f"--window {window} must be START-END, the first and the last layer, counted from 0")
    counts = [count for count in counts_given if count is not None]
    if len(counts) != 1:
        raise UserInputError("--window needs one of --drop-layers, --remove-ffns and --share-ffns")
    if counts[0] != span[1] - span[0] + 1:
        raise UserInputError(f"--window {window} spans {span[1] - span[0] + 1} layers, not {counts[0]}")
    return span


def _given(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _flags(values: dict[str, Any]) -> str:
    return ", ".join(f"--{key.replace('_', '-')} {value}" for key, value in values.items())
