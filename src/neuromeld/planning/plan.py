"""A plan: a recipe resolved against one model.  Everything about the result is known before a weight is read."""

import dataclasses
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from textwrap import shorten
from typing import Literal

import torch
from transformers import PretrainedConfig, PreTrainedModel

from neuromeld.archs import Architecture, resolve, spec_for
from neuromeld.archs.classes import stock_class
from neuromeld.archs.sizes import Sizes, predict_flops, predict_parameters, sizes_of, space_size
from neuromeld.archs.spec import FFN, HEADS, RESIDUAL, ArchSpec
from neuromeld.errors import UnsupportedModelError, UserInputError
from neuromeld.planning.memory import Footprint
from neuromeld.planning.recipe import Recipe
from neuromeld.stages.share_ffns import DELETED_WIDTH
from neuromeld.units import NEEDS_FELT, check_compensation

CONTEXT = 512
"""Keys that a token attends to, where operations are counted."""

FFN_MULTIPLE = 8
"""Hidden sizes of FFNs are rounded down to a multiple of this, or of 128 where they are large."""

SPACES = {"heads": HEADS, "ffn": FFN, "width": RESIDUAL}
"""The stages that narrow a space."""

REFUSED = {
    HEADS: "heads cannot be taken out of",
    FFN: "FFNs cannot be narrowed in",
    RESIDUAL: "the residual stream cannot be narrowed in",
}


@dataclass(frozen=True)
class Plan:
    """Resolved dimensions.

    `basis_starts` are the first layers of each run of layers that shares a basis; none where the stream
    keeps its width.

    `parameters_before` and `parameters_after` count unique parameters, ties once, adapters and shortcuts included.
    `flops_before` and `flops_after` are operations per token that attends to `CONTEXT` keys.
    `bytes_after` is the size of the weights on disk.  `peak_bytes` and `disk_bytes` predict what the whole job takes of
    memory and, result included, of the disk.  A `memory_mapped` job leaves the weights in their files.
    """

    recipe: Recipe
    model_type: str
    format: Literal["stock", "native"]
    before: Sizes
    after: Sizes
    basis_starts: tuple[int, ...]
    tied: bool
    parameters_before: int
    parameters_after: int
    flops_before: int
    flops_after: int
    bytes_after: int
    peak_bytes: int
    disk_bytes: int = 0
    memory_mapped: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def kept_ratio(self) -> float:
        return self.parameters_after / self.parameters_before

    @property
    def head_adapter(self) -> bool:
        """Whether a tied head needs a matrix of its own between the final norm and the embedding."""
        return self.tied and self.format == "native" and self.recipe.width is not None

    def to_json(self) -> str:
        data = dataclasses.asdict(self) | {"recipe": self.recipe.model_dump(), "kept_ratio": self.kept_ratio}
        return json.dumps(data)

    @staticmethod
    def from_json(text: str) -> "Plan":
        data = json.loads(text)
        del data["kept_ratio"]
        data |= {name: tuple(data[name]) for name in ("basis_starts", "warnings")}
        data |= {name: Sizes.from_dict(data[name]) for name in ("before", "after")}
        return Plan(**data | {"recipe": Recipe.model_validate(data["recipe"])})


def meta_model(config: PretrainedConfig) -> PreTrainedModel:
    """The model that `config` describes, on the meta device: shapes without memory."""
    with torch.device("meta"):
        found = stock_class(config)
        model: PreTrainedModel = (found.from_config if hasattr(found, "from_config") else found._from_config)(config)
    return model


def architecture_of(model: PreTrainedModel) -> Architecture:
    """The known architecture of a model, checked against it.

    Raises `UnsupportedModelError` for a family that is not described and for a model that differs from its description.
    """
    name = type(model).__name__
    spec = spec_for(model.config.model_type, [name])
    if name != spec.model_class:
        raise UnsupportedModelError(f"{name} is not covered: {spec.model_type} means {spec.model_class} here")
    return resolve(model, spec)


def make_plan(
    model: PreTrainedModel, recipe: Recipe, *, dtype: torch.dtype | None = None, max_memory: int | None = None
) -> Plan:
    """Resolve `recipe` for `model`, which may be a `meta_model`; `dtype` is that of the weights to be written.

    max_memory   bytes; a job that would take more is memory_mapped

    Raises `UserInputError` for a size or a format that cannot be and for a memory that is too small,
    `UnsupportedModelError` for the model.
    """
    arch = architecture_of(model)
    _refuse(arch.spec, recipe)
    before = sizes_of(arch, model.config)
    after = _narrow_layers(arch, recipe, before)
    check_compensation(model, arch, recipe.heads, recipe.ffn)
    dropped = recipe.drop_layers.number if recipe.drop_layers else 0
    left = arch.without(dropped)
    layers = after.num_layers
    basis_starts = tuple(range(0, layers, recipe.width.run_length(layers))) if recipe.width else ()
    output = _format(arch, recipe, after, shared=len(basis_starts) <= 1)
    after = replace(after, hidden=_hidden_size(arch, recipe, after, model.config, output))
    _check_multiples(arch.spec, after)
    used = recipe.calibration.tokens // recipe.calibration.seqlen * recipe.calibration.seqlen
    itemsize = (dtype or model.dtype).itemsize
    num_parameters = sum(p.numel() for p in model.parameters())
    plan = Plan(
        recipe=recipe,
        model_type=arch.spec.model_type,
        format=output,
        before=before,
        after=after,
        basis_starts=basis_starts,
        tied=arch.tied,
        parameters_before=num_parameters,
        parameters_after=0,
        flops_before=predict_flops(arch, before, before, context=CONTEXT, extra=arch.untouched_matrix_entries(model)),
        flops_after=0,
        bytes_after=0,
        peak_bytes=0,
        warnings=_calibration_warnings(used, _largest_regression(arch, recipe, before, after)),
    )
    k = after.hidden
    extra = (len(basis_starts[1:]) + plan.head_adapter) * k * k
    members = after.shared_ffns * len(arch.depths) if recipe.share_ffns else 0
    extra += members * (recipe.share_ffns.rank if recipe.share_ffns else 0) * (after.ffn[0] + k)
    flops = predict_flops(left, before, after, context=CONTEXT, extra=extra + arch.untouched_matrix_entries(model))
    if recipe.share_ffns is not None and recipe.share_ffns.gain == "channel":
        extra += members * k
    if recipe.width is not None and arch.spec.embedding_norm is not None:
        extra += arch.widths["vocab"] - k  # its gain and bias become one scale a token and one shift
    num_after = predict_parameters(model, left, before, after, extra=extra)
    # Positions that are computed are parameters of some models, which do not save them.
    unsaved = sum(model.get_parameter(name).numel() for name in model._keys_to_ignore_on_save or ())
    bytes_after = (num_after - unsaved) * itemsize
    footprint = Footprint(recipe, arch, before, after, len(basis_starts), used, itemsize)
    weights = num_parameters * itemsize
    peak, memory_mapped = footprint.peak(weights), False
    if max_memory is not None and peak > max_memory:
        peak, memory_mapped = footprint.memory_mapped_peak(weights, max_memory), True
    return replace(
        plan,
        parameters_after=num_after,
        flops_after=flops,
        bytes_after=bytes_after,
        peak_bytes=peak,
        disk_bytes=footprint.disk(bytes_after, memory_mapped=memory_mapped),
        memory_mapped=memory_mapped,
    )


def _narrowed_spaces(recipe: Recipe) -> list[str]:
    return [space for stage, space in SPACES.items() if getattr(recipe, stage) is not None]


def _refuse(spec: ArchSpec, recipe: Recipe) -> None:
    """`UnsupportedModelError` where a stage would narrow what cannot be narrowed in this architecture."""
    refusals = [
        f"{REFUSED[space]} {spec.model_type} models: {reason}"
        for space in _narrowed_spaces(recipe)
        if (reason := spec.refusal(space)) is not None
    ]
    for stage, what in (("share_ffns", "merged"), ("remove_ffns", "deleted")):
        if getattr(recipe, stage) is not None and stage in spec.refusals:
            refusals.append(f"FFNs cannot be {what} in {spec.model_type} models: {spec.refusals[stage]}")
    if recipe.share_ffns is not None and recipe.share_ffns.gain == "scale" and spec.stacks[0].ffn_scale is None:
        raise UnsupportedModelError(
            f"gain=scale: {spec.model_type} models have no factors behind their FFNs that could be fitted; use channel"
        )
    if refusals:
        works = [stage for stage, space in SPACES.items() if spec.refusal(space) is None]
        works += [stage for stage in ("share_ffns", "remove_ffns", "drop_layers") if stage not in spec.refusals]
        raise UnsupportedModelError(f"{'; '.join(refusals)}. Stages that work: {', '.join(works)}")
    felt = [stage for stage in (recipe.ffn, recipe.heads) if stage is not None and stage.selector in NEEDS_FELT]
    if felt and not spec.has_loss:
        raise UnsupportedModelError(
            f"selector={felt[0].selector} needs a loss, and calibration data of a {spec.model_class} has nothing to "
            "predict: choose another"
        )
    if recipe.searches and not spec.has_loss:
        raise UnsupportedModelError(
            f"layers of a {spec.model_class} cannot be chosen by their loss: its calibration data has nothing to "
            "predict. Name them: --window, or `layers` and `window` in a recipe"
        )


def _narrow_layers(arch: Architecture, recipe: Recipe, before: Sizes) -> Sizes:
    """The sizes behind every stage but the narrowing of the residual stream."""
    sizes = before
    if recipe.drop_layers is not None:
        count, layers = recipe.drop_layers.number, recipe.drop_layers.layers
        if count >= min(arch.depths) or max(layers or (0,)) >= min(arch.depths):
            raise UserInputError(
                f"drop_layers={layers or count}: the model has {min(arch.depths)} layers, counted from 0, and at least "
                "one must stay"
            )
        sizes, arch = sizes.drop_layers(count * len(arch.depths)), arch.without(count)
    if recipe.remove_ffns is not None:
        sizes = delete_from(sizes, arch, recipe.remove_ffns.layers or range(recipe.remove_ffns.number))
    if recipe.heads is not None:
        sizes = replace(sizes, num_kv_heads=_per_layer("num_kv_heads", recipe.heads.num_kv_heads, sizes.num_kv_heads))
    if recipe.ffn is not None:
        width = sizes.ffn[0]
        target = recipe.ffn.size or max(1, round_width(width * (recipe.ffn.ratio or 1), width, FFN_MULTIPLE))
        sizes = replace(sizes, ffn=_per_layer("ffn.size", target, sizes.ffn))
    if recipe.share_ffns is not None:
        count, window, depth = recipe.share_ffns.length, recipe.share_ffns.window, min(arch.depths)
        if count > depth or (window and window[1] >= depth):
            raise UserInputError(
                f"share_ffns={window or count}: the model has {depth} FFNs, counted from 0; choose fewer"
            )
        most = min(sizes.ffn[0], sizes.hidden)
        if recipe.share_ffns.rank >= most:
            raise UserInputError(
                f"share_ffns.rank={recipe.share_ffns.rank} must be below {most}, the FFNs' smaller side"
            )
        sizes = replace(sizes, shared_ffns=count)
    return sizes


def delete_from(sizes: Sizes, arch: Architecture, layers: Iterable[int]) -> Sizes:
    """The sizes without the FFNs of those layers, counted from 0 in every stack."""
    chosen, depth = sorted(set(layers)), min(arch.depths)
    if chosen[-1] >= depth:
        raise UserInputError(
            f"remove_ffns={shorten(str(chosen), 80)}: the model has {depth} FFNs, counted from 0; choose fewer"
        )
    left = DELETED_WIDTH[arch.consumer(0, FFN).layout]
    gone = {start + layer for start in arch.stack_offsets for layer in chosen}
    return replace(sizes, ffn=tuple(left if layer in gone else size for layer, size in enumerate(sizes.ffn)))


def _per_layer(name: str, target: int | tuple[int, ...], now: tuple[int, ...]) -> tuple[int, ...]:
    sizes = (target,) * len(now) if isinstance(target, int) else target
    if len(sizes) != len(now):
        raise UserInputError(f"{name} gives {len(sizes)} sizes for {len(now)} layers")
    too_large = [size for size, old in zip(sizes, now, strict=True) if size > old]
    if too_large:
        raise UserInputError(f"{name}={too_large[0]} is more than the {now[0]} that the model has")
    return sizes


def _hidden_size(arch: Architecture, recipe: Recipe, after: Sizes, config: PretrainedConfig, output: str) -> int:
    d, key = arch.width, arch.spec.stock_multiple
    multiple = 1
    if output == "stock" and key is not None:
        multiple = getattr(config, key) * after.num_kv_heads[0] // sizes_of(arch, config).num_kv_heads[0]
    width = recipe.width
    k = d
    if width is not None:
        every = math.lcm(multiple, arch.spec.kernel_multiple)
        k = width.hidden_size or round_width(d * (width.hidden_ratio or 1), d, every)
    if k > d:
        raise UserInputError(f"hidden_size={k} is wider than the model, whose hidden size is {d}")
    if k < 2:
        raise UserInputError(f"this leaves a width of {k} of {d}; at least 2 is needed: give a larger hidden_ratio")
    if k % multiple:
        low = k // multiple * multiple
        raise UserInputError(
            f"hidden_size={k} cannot be a stock {arch.spec.model_type} model: its config wants a multiple of its "
            f"{multiple} attention heads, so {low} or {low + multiple}; any width works with --native"
        )
    return k


def _check_multiples(spec: ArchSpec, after: Sizes) -> None:
    multiple = spec.kernel_multiple
    wrong = sorted({size for size in (after.hidden, *after.ffn) if size % multiple})
    if wrong:
        raise UserInputError(
            f"widths of {', '.join(map(str, wrong))} cannot be run: transformers' kernels for {spec.model_type} want "
            f"multiples of {multiple} for the residual stream and for FFNs"
        )


def round_width(width: float, original: int, multiple: int) -> int:
    """A width rounded down to a multiple that is asked for and that kernels like: 128 for wide models, else 2."""
    if width >= original:
        return original
    multiple = math.lcm(multiple, 128 if original >= 2048 else 2)
    return math.floor(width / multiple + 1e-9) * multiple


def _format(arch: Architecture, recipe: Recipe, after: Sizes, *, shared: bool) -> Literal["stock", "native"]:
    native_only = arch.spec.native_only
    refusals = [native_only[space] for space in _narrowed_spaces(recipe) if space in native_only]
    if recipe.width is not None and arch.tied and arch.spec.kind == "layer":
        refusals.append("a tied head behind a LayerNorm needs an adapter, which stock models have no place for")
    if not shared:
        refusals.append(
            "a stock model has no place for the changes of basis between runs of layers (--basis shared has none)"
        )
    if not after.uniform:
        refusals.append(
            "a stock config has one size for all layers, since model classes do not read transformers' "
            "per_layer_config (one number in the place of a list stays stock)"
        )
    if recipe.share_ffns is not None:
        refusals.append("a stock model cannot share an FFN between layers")
    if recipe.output == "stock" and refusals:
        raise UserInputError(
            "this result cannot be a stock checkpoint: "
            + "; ".join(refusals)
            + ". Use --native, which transformers loads "
            "and llama.cpp does not; docs/serving.md says what of it vLLM does"
        )
    return "native" if refusals or recipe.output == "native" else "stock"


def _largest_regression(arch: Architecture, recipe: Recipe, before: Sizes, after: Sizes) -> int:
    """The largest number of unknowns, per output, that calibration data has to determine."""
    sizes = [0]
    if recipe.width is not None:
        sizes.append(after.hidden)
    for stage, space in ((recipe.ffn, FFN), (recipe.heads, HEADS)):
        if stage is not None and stage.compensate == "ridge":
            sizes += [space_size(arch, before, after, layer, space) for layer in range(after.num_layers)]
    return max(sizes)


def _calibration_warnings(tokens: int, unknowns: int) -> tuple[str, ...]:
    if tokens < unknowns:
        raise UserInputError(
            f"{tokens} calibration tokens cannot determine a width of {unknowns}: use at least {16 * unknowns} "
            "(--calibration-tokens)"
        )
    if tokens < 16 * unknowns:
        return (
            f"{tokens} calibration tokens are few for a width of {unknowns}: the statistics will be noisy and a ridge "
            f"will overfit; {16 * unknowns} or more are advised",
        )
    return ()
