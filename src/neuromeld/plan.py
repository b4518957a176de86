"""A plan: a recipe resolved against one model.  Everything about the result is known before a weight is read."""

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from neuromeld.archs import ARCHITECTURES, Architecture, resolve
from neuromeld.archs.spec import RESIDUAL
from neuromeld.errors import UnsupportedModelError, UserInputError
from neuromeld.recipe import Recipe
from neuromeld.registry import unknown_name
from neuromeld.stats.base import TOKENS_PER_BLOCK
from neuromeld.surgery import read_bias

INTERPRETER_BYTES = 500 << 20
"""What Python, torch and transformers take before a model is loaded."""


@dataclass(frozen=True)
class Plan:
    """Resolved dimensions.  `starts` are the first layers of each run of layers that shares a basis.

    `parameters_before` and `parameters_after` count unique parameters, ties once, adapters and shortcuts included.
    `bytes_after` is the size of the weights on disk; `peak_bytes` a prediction for the memory of the whole job.
    """

    recipe: Recipe
    model_type: str
    format: Literal["stock", "native"]
    num_layers: int
    hidden_size_before: int
    hidden_size_after: int
    starts: tuple[int, ...]
    tied: bool
    parameters_before: int
    parameters_after: int
    bytes_after: int
    peak_bytes: int
    warnings: tuple[str, ...] = ()

    @property
    def kept_ratio(self) -> float:
        return self.parameters_after / self.parameters_before

    @property
    def head_adapter(self) -> bool:
        """Whether a tied head needs a matrix of its own between the final norm and the embedding."""
        return self.tied and self.format == "native"

    def to_json(self) -> str:
        data = dataclasses.asdict(self) | {"recipe": self.recipe.model_dump(), "kept_ratio": self.kept_ratio}
        return json.dumps(data)

    @staticmethod
    def from_json(text: str) -> "Plan":
        data = json.loads(text)
        del data["kept_ratio"]
        lists = {"starts": tuple(data["starts"]), "warnings": tuple(data["warnings"])}
        return Plan(**data | lists | {"recipe": Recipe.model_validate(data["recipe"])})


def skeleton(config: PretrainedConfig) -> PreTrainedModel:
    """The model that `config` describes, on the meta device: shapes without memory."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model


def architecture_of(model: PreTrainedModel) -> Architecture:
    """The known architecture of a model, checked against it.

    Raises `UnsupportedModelError` for a family that is not described and for a model that differs from its description.
    """
    model_type = model.config.model_type
    if model_type.startswith("neuromeld-"):
        raise UnsupportedModelError(
            "this checkpoint is already narrow in neuromeld's native format; compress the original model instead"
        )
    if model_type not in ARCHITECTURES:
        raise UnsupportedModelError(unknown_name("architecture", model_type, list(ARCHITECTURES)))
    spec = ARCHITECTURES[model_type]
    if type(model).__name__ != spec.model_class:
        raise UnsupportedModelError(
            f"{type(model).__name__} is not covered: {model_type} means {spec.model_class} here"
        )
    return resolve(model, spec)


def make_plan(model: PreTrainedModel, recipe: Recipe, *, dtype: torch.dtype | None = None) -> Plan:
    """Resolve `recipe` for `model`, which may be a `skeleton`; `dtype` is that of the weights to be written.

    Raises `UserInputError` for a width or a format that cannot be, `UnsupportedModelError` for the model.
    """
    arch = architecture_of(model)
    width, d = recipe.width, arch.width
    starts = tuple(range(0, arch.num_layers, width.run_length(arch.num_layers)))
    output = _format(arch, recipe, shared=len(starts) == 1)
    multiple = _stock_multiple(arch, model.config) if output == "stock" else 1
    k = width.hidden_size or round_width(d * (width.hidden_ratio or 1), d, multiple)
    if k > d:
        raise UserInputError(f"hidden_size={k} is wider than the model, whose hidden size is {d}")
    if k < 2:
        raise UserInputError(f"hidden_ratio={width.hidden_ratio} leaves a width of {k} of {d}; at least 2 is needed")
    if k % multiple:
        low = k // multiple * multiple
        raise UserInputError(
            f"hidden_size={k} cannot be a stock {arch.spec.model_type} model: its config wants a multiple of its "
            f"{multiple} attention heads, so {low} or {low + multiple}; any width works with --native"
        )
    used = recipe.calibration.tokens // recipe.calibration.seqlen * recipe.calibration.seqlen
    warnings = _calibration_warnings(used, k, width.refit)
    before = sum(p.numel() for p in model.parameters())
    after = _predict_parameters(model, arch, k, num_shortcuts=len(starts) - 1, adapter=arch.tied and output == "native")
    itemsize = (dtype or model.dtype).itemsize
    streams = used * 4 * ((len(arch.spec.cut_norms) + 2) * d + 2 * k) if width.refit else 0
    working = 4 * TOKENS_PER_BLOCK * 8 * d + 6 * 8 * d * d * len(starts)
    return Plan(
        recipe=recipe,
        model_type=arch.spec.model_type,
        format=output,
        num_layers=arch.num_layers,
        hidden_size_before=d,
        hidden_size_after=k,
        starts=starts,
        tied=arch.tied,
        parameters_before=before,
        parameters_after=after,
        bytes_after=after * itemsize,
        peak_bytes=INTERPRETER_BYTES + before * itemsize + max(after * itemsize, streams + working),
        warnings=warnings,
    )


def round_width(width: float, original: int, multiple: int) -> int:
    """A width rounded down to a multiple that is asked for and that kernels like: 128 for wide models, else 2."""
    if width >= original:
        return original
    multiple = math.lcm(multiple, 128 if original >= 2048 else 2)
    return math.floor(width / multiple + 1e-9) * multiple


def _stock_multiple(arch: Architecture, config: PretrainedConfig) -> int:
    key = arch.spec.stock_multiple
    return 1 if key is None else int(getattr(config, key))


def _format(arch: Architecture, recipe: Recipe, *, shared: bool) -> Literal["stock", "native"]:
    refusals = []
    if arch.spec.stock_width is None:
        refusals.append(arch.spec.stock_refusal)
    if not shared:
        refusals.append("a stock model has no place for the changes of basis between runs of layers")
    if recipe.output == "stock" and refusals:
        raise UserInputError(
            "this result cannot be a stock checkpoint: "
            + "; ".join(refusals)
            + ". Use --native"
            + ("" if shared else ", or --basis shared")
        )
    return "native" if refusals or recipe.output == "native" else "stock"


def _calibration_warnings(tokens: int, k: int, refitted: bool) -> tuple[str, ...]:
    if tokens < k:
        raise UserInputError(
            f"{tokens} calibration tokens cannot determine a width of {k}: use at least {16 * k} (--calibration-tokens)"
        )
    if tokens < 16 * k:
        consequence = "the refit will overfit" if refitted else "the statistics will be noisy"
        return (f"{tokens} calibration tokens are few for a width of {k}: {consequence}; {16 * k} or more are advised",)
    return ()


def _predict_parameters(
    model: PreTrainedModel, arch: Architecture, k: int, *, num_shortcuts: int, adapter: bool
) -> int:
    total = (num_shortcuts + adapter) * k * k
    for weight in arch.weights:
        size_in, size_out = (k if space == RESIDUAL else arch.widths[space] for space in (weight.in_, weight.out))
        total += 0 if arch.tied and weight == arch.spec.head else size_in * size_out
        total += 0 if read_bias(model, weight) is None else size_out
    for norm in arch.norms:
        width = k if norm.over == RESIDUAL else arch.widths[norm.over]
        if norm != arch.spec.embedding_norm:
            total += width * len(list(model.get_submodule(norm.path).parameters()))
    if arch.spec.embedding_norm is not None:
        total += arch.widths["vocab"] + k
    return total
