"""A plan: a recipe resolved against one model.  Everything about the result is known before a weight is read."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import torch
import transformers
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from neuromeld.archs import ARCHITECTURES, BY_CLASS, UNSUPPORTED, Architecture, resolve, spec_for
from neuromeld.archs.classes import BARE, kind_of, stock_class
from neuromeld.archs.sizes import Sizes, predict_flops, predict_parameters, sizes_of, stock_multiple
from neuromeld.archs.spec import ArchSpec
from neuromeld.data.calibration import BATCH_WINDOWS
from neuromeld.discovery.lookup import discovered_architecture
from neuromeld.errors import CheckpointError, NeuromeldError, UnsupportedModelError, UserInputError
from neuromeld.evaluation import OUTCOME_TOKENS
from neuromeld.model.native.classes import has_auto_class
from neuromeld.model.passes import LEAST_PARAMETERS, passes_of_float32
from neuromeld.planning.duration import Work
from neuromeld.planning.memory import DeviceFootprint, Footprint
from neuromeld.planning.recipe import Chosen, Recipe
from neuromeld.planning.served import multiples_of, unserved
from neuromeld.stages import STAGES
from neuromeld.stages.base import ONE_SIZE, Cost, Operations, Output, Target, Workload
from neuromeld.stages.sublayer_stage import SublayerStage
from neuromeld.stats.split import HELD_OUT

_NAMES = {2: "bfloat16", 4: "float32", 8: "float64"}
"""Formats of weights by their bytes."""

CONTEXT = 512
"""Keys that a token attends to, where operations are counted."""


@dataclass(frozen=True)
class Plan:
    """Resolved dimensions, before and after.

    `parameters_before` and `parameters_after` count unique parameters, ties once, adapters and shortcuts included.
    `flops_before` and `flops_after` are operations per token that attends to `CONTEXT` keys.
    `bytes_after` is the size of the weights on disk.  `peak_bytes` and `disk_bytes` predict what the whole job takes of
    memory and, result included, of the disk.  A `memory_mapped` job leaves the weights in their files.  `work` is
    what a time is told from (`planning/duration.py`).
    """

    recipe: Recipe
    model_type: str
    format: Output
    before: Sizes
    after: Sizes
    parameters_before: int
    parameters_after: int
    flops_before: int
    flops_after: int
    bytes_after: int
    peak_bytes: int
    disk_bytes: int
    memory_mapped: bool
    work: Work
    warnings: tuple[str, ...]
    foreseen: tuple[str, ...] = ()
    """What may go less well than it should, and is a warning of the result only where it did."""
    told: tuple[str, ...] = ()
    """What stages say of it that read the model's processor."""
    on_device: DeviceFootprint | None = None
    """What a device holds to which weights come a layer at a time; None where they need not."""

    @property
    def kept_ratio(self) -> float:
        """Unique parameters after over those before."""
        return self.parameters_after / self.parameters_before

    @property
    def served(self) -> Sizes:
        """The sizes that engines are asked about: `after`, unlike by layer where those of the result may come to be."""
        return _served(self.recipe, self.after)

    def to_json(self) -> str:
        """Return the plan as JSON."""
        return json.dumps(asdict(self) | {"recipe": self.recipe.model_dump(), "kept_ratio": self.kept_ratio})


def meta_model(config: PretrainedConfig) -> PreTrainedModel:
    """Build the model that `config` describes, on the meta device: shapes without memory.

    Raises `CheckpointError` where it describes none.
    """
    try:
        with torch.device("meta"):
            found = stock_class(config)
            model: PreTrainedModel = (found.from_config if hasattr(found, "from_config") else found._from_config)(
                config
            )
    except NeuromeldError:
        raise
    except Exception as error:  # whatever a model's constructor makes of impossible values
        raise CheckpointError(
            f"the config describes no {config.model_type} model that transformers can build: {error}"
        ) from error
    return model


def check_plain(model: object) -> None:
    """Raise `UserInputError` for a live model that is compiled, that has adapters, or that is in a wrapper."""
    name = type(model).__name__
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    if any(getattr(module, "_compiled_call_impl", None) or hasattr(module, "_orig_mod") for module in modules):
        raise UserInputError(
            f"this {name} was compiled (torch.compile), and its weights are to change their shapes: pass the model as "
            "it was before, and compile the result"
        )
    if any(hasattr(module, "peft_config") or hasattr(module, "lora_A") for module in modules):
        raise UserInputError(
            f"this {name} has adapters (peft): pass what its merge_and_unload() returns, which has them in its weights"
        )
    if not isinstance(model, PreTrainedModel):
        raise UserInputError(
            f"{name} is not a model of transformers; pass a PreTrainedModel (out of a wrapper: its .module)"
        )


def architecture_of(model: PreTrainedModel) -> Architecture:
    """Return the architecture of a model, checked against it: as its family is described, else as it is discovered.

    Raises `UnsupportedModelError` for a model that no description fits and of which nothing is proved,
    `UserInputError` for one that is wrapped.
    """
    check_plain(model)
    config, name = model.config, type(model).__name__
    if config.model_type not in ARCHITECTURES and name not in BY_CLASS:
        if hasattr(config, "neuromeld") or (config.model_type in UNSUPPORTED and kind_of(config, type(model)) == BARE):
            spec_for(config.model_type)  # says why
        return discovered_architecture(model)
    spec = spec_for(config.model_type, [name])
    try:
        if name != spec.model_class:
            raise UnsupportedModelError(f"{name} is not covered: {spec.model_type} means {spec.model_class} here")
        return resolve(model, spec)
    except UnsupportedModelError as described:
        try:
            return discovered_architecture(model)
        except UnsupportedModelError as error:
            raise UnsupportedModelError(f"{described}. {error}") from error


@dataclass(frozen=True)
class _Step:
    """A stage of the recipe, and the sizes around it."""

    chosen: Chosen
    before: Sizes
    after: Sizes


def make_plan(
    model: PreTrainedModel,
    recipe: Recipe,
    *,
    dtype: torch.dtype | None = None,
    max_memory: int | None = None,
    device_memory: int | None = None,
    arch: Architecture | None = None,
) -> Plan:
    """Resolve `recipe` for `model`, which may be a `meta_model`; `dtype` is that of the weights to be written.

    max_memory   bytes; a job that would take more is memory-mapped
    device_memory  bytes; a job that would take more of its device is streamed there, and so is a memory-mapped one
    arch         of the model, where it is resolved already

    Raises `UserInputError` for a size or a format that cannot be and for a memory that is too small,
    `UnsupportedModelError` for the model.
    """
    arch = arch or architecture_of(model)
    _refuse(model, arch, recipe)
    original = sizes_of(arch, model.config)
    output = _output(arch, model.config, recipe, original)
    target = Target(arch, original, output, multiples_of(recipe.output))
    steps = _chain(recipe, target)
    after = steps[-1].after
    _check_multiples(arch.spec, after)
    itemsize = (dtype or model.dtype).itemsize
    num_parameters = sum(p.numel() for p in model.parameters())
    passes = passes_of_float32(recipe.calibration.passes, num_parameters, torch.device("cpu"))
    casts = itemsize == torch.float32.itemsize and passes == "bfloat16"
    works = _workloads(recipe, target, steps, itemsize, casts=casts)
    costs = [step.chosen.stage.cost(step.chosen.options, work) for step, work in zip(steps, works, strict=True)]
    parameters_after, flops_after = _predict(model, target, steps, costs)
    bytes_after = (parameters_after - _unsaved_parameters(model)) * itemsize
    footprint = Footprint(costs, works[0], num_parameters * itemsize, converted_bytes(model, arch, dtype))
    peak, memory_mapped = footprint.within(max_memory)
    on_device = footprint.streamed(device_memory, memory_mapped=memory_mapped) if device_memory is not None else None
    flops_before = predict_flops(arch, original, original, context=CONTEXT, extra=arch.untouched_matrix_entries(model))
    moves = footprint.moves(len(steps), bytes_after, memory_mapped=memory_mapped, streamed=on_device is not None)
    work = _work(recipe, steps, works, num_parameters, looks=1 + flops_after / flops_before)
    return Plan(
        recipe=recipe,
        model_type=arch.spec.model_type,
        format=output,
        before=original,
        after=after,
        parameters_before=num_parameters,
        parameters_after=parameters_after,
        flops_before=flops_before,
        flops_after=flops_after,
        bytes_after=bytes_after,
        peak_bytes=peak,
        disk_bytes=moves.written,
        memory_mapped=memory_mapped,
        work=replace(work, moves=moves),
        warnings=_calibration_warnings(steps, works),
        foreseen=tuple(w for chosen in recipe.chosen for w in chosen.stage.foreseen(model, arch, chosen.options)),
        on_device=on_device,
    )


def converted_bytes(model: PreTrainedModel, arch: Architecture, dtype: torch.dtype | None) -> list[int]:
    """Return the bytes of each weight that lies in no file of the checkpoint: all in another dtype, else experts."""
    if dtype not in (None, model.dtype):
        return [parameter.numel() * dtype.itemsize for parameter in model.parameters()]
    stacked = {f"{weight.path}.{weight.name}" for weight in arch.weights if weight.stacked}
    return [model.get_parameter(name).nbytes for name in sorted(stacked)]


def _workloads(recipe: Recipe, target: Target, steps: Sequence[_Step], itemsize: int, *, casts: bool) -> list[Workload]:
    """Return what each stage works on, by sizes."""
    seqlen = recipe.calibration.seqlen
    windows = recipe.calibration.tokens // seqlen
    batch_tokens = min(BATCH_WINDOWS, max(1, windows // HELD_OUT)) * seqlen
    sized = {"tokens": windows * seqlen, "seqlen": seqlen, "batch_tokens": batch_tokens, "itemsize": itemsize}
    layerwise = [isinstance(step.chosen.stage, SublayerStage) for step in steps]
    walked = map(all, pairwise([False, *layerwise]))
    works: list[Workload] = []
    left = target.arch
    for step, again in zip(steps, walked, strict=True):
        works.append(Workload(target, left, step.before, steps[-1].after, **sized, casts=casts, walked=again))
        left = step.chosen.stage.left(left, step.chosen.options)
    return works


def _work(recipe: Recipe, steps: Sequence[_Step], works: Sequence[Workload], parameters: int, *, looks: float) -> Work:
    """Return what all stages compute, and `looks` at the perplexity; nothing yet of what is moved."""
    first, operations = works[0], Operations()
    for step, work in zip(steps, works, strict=True):
        operations += step.chosen.stage.operations(step.chosen.options, work)
    original = first.target.original
    flops = predict_flops(first.arch, original, original, context=first.seqlen)
    own, asked = _NAMES[first.itemsize], recipe.calibration.passes
    casts = own == "float32" and (asked == "bfloat16" or (asked == "auto" and parameters >= LEAST_PARAMETERS))
    dtypes = ("bfloat16",) if casts and asked == "bfloat16" else (own, "bfloat16") if casts else (own,)
    return Work(operations, first.tokens, flops, dtypes, looked=looks * OUTCOME_TOKENS * first.is_looked_at)


def _predict(model: PreTrainedModel, target: Target, steps: Sequence[_Step], costs: Sequence[Cost]) -> tuple[int, int]:
    """Return the unique parameters and the operations per token behind all steps."""
    after, left = steps[-1].after, target.arch
    for step in steps:
        left = step.chosen.stage.left(left, step.chosen.options)
    parameters = predict_parameters(model, left, target.original, after, extra=sum(cost.parameters for cost in costs))
    matrices = left.untouched_matrix_entries(model) + sum(cost.matrices for cost in costs)
    return parameters, predict_flops(left, target.original, after, context=CONTEXT, extra=matrices)


def _refuse(model: PreTrainedModel, arch: Architecture, recipe: Recipe) -> None:
    """`UnsupportedModelError` where a stage cannot be had of this architecture, or of this model."""
    reasons = [reason for chosen in recipe.chosen if (reason := chosen.stage.unavailable(arch.spec)) is not None]
    if reasons:
        works = [stage.name for stage in STAGES if stage.unavailable(arch.spec) is None]
        raise UnsupportedModelError(f"{'; '.join(reasons)}. Stages that work: {', '.join(works)}")
    refusals = [refusal for chosen in recipe.chosen for refusal in chosen.stage.refusals(model, arch, chosen.options)]
    if refusals:
        raise UnsupportedModelError("; ".join(dict.fromkeys(refusals)))


def _chain(recipe: Recipe, target: Target) -> list[_Step]:
    """Return the stages with the sizes around each, from the original's."""
    steps: list[_Step] = []
    for chosen in recipe.chosen:
        before = steps[-1].after if steps else target.original
        steps.append(_Step(chosen, before, chosen.stage.resize(before, chosen.options, target)))
    return steps


def _served(recipe: Recipe, after: Sizes) -> Sizes:
    """Return the sizes that engines are asked about."""
    for chosen in recipe.chosen:
        after = chosen.stage.served(after, chosen.options)
    return after


def _check_multiples(spec: ArchSpec, after: Sizes) -> None:
    multiple = spec.kernel_multiple
    wrong = sorted({size for size in (after.hidden, *after.ffn) if size % multiple})
    if wrong:
        raise UserInputError(
            f"widths of {', '.join(map(str, wrong))} cannot be run: transformers' kernels for {spec.model_type} want "
            f"multiples of {multiple} for the residual stream and for FFNs"
        )


def _output(arch: Architecture, config: PretrainedConfig, recipe: Recipe, original: Sizes) -> Output:
    """Return the format of the result: stock where that can be and may be."""
    target = Target(arch, original, "native", multiples_of(recipe.output))
    steps = _chain(recipe, target)
    reasons = [
        reason for step in steps for reason in step.chosen.stage.native_reasons(step.chosen.options, target, step.after)
    ]
    after = steps[-1].after
    if not after.uniform:
        reasons.append(ONE_SIZE)
    multiple = stock_multiple(arch, original, after)
    if after.hidden == original.hidden and after.hidden % multiple:  # a narrower stream is rounded to it
        reasons.append(f"its config wants a width of the stream that is a multiple of its {multiple} query heads")
    if recipe.output == "stock" and reasons:
        raise UserInputError(
            "this result cannot be a stock checkpoint: "
            + "; ".join(dict.fromkeys(reasons))
            + ". Use --native, which transformers loads; `neuromeld serve-check` says which other engines do, and how"
        )
    output: Output = "native" if reasons or recipe.output == "native" else "stock"
    family, name = arch.spec.model_type, arch.spec.model_class
    stock = getattr(transformers, name, None)
    if output == "native" and stock is not None and not has_auto_class(stock):
        raise UserInputError(
            f"no auto class of transformers finds {name}, as a native checkpoint needs, and this cannot be stock: "
            + ("; ".join(dict.fromkeys(reasons)) or "--native was asked for")
        )
    refused = unserved(recipe.output, family, config, original, _served(recipe, after), native=output == "native")
    if refused:
        told = "; ".join(f"{engine}: {'; '.join(reasons)}" for engine, reasons in refused.items())
        raise UserInputError(
            f"this result cannot be served by {' and '.join(refused)}: {told}. Leave --for out, and `neuromeld "
            "serve-check` says which engines load the result"
        )
    return output


def _unsaved_parameters(model: PreTrainedModel) -> int:
    """Count positions that are computed, which are parameters of some models that do not save them."""
    return sum(model.get_parameter(name).numel() for name in model._keys_to_ignore_on_save or ())


def _calibration_warnings(steps: Sequence[_Step], works: Sequence[Workload]) -> tuple[str, ...]:
    each = zip(steps, works, strict=True)
    tokens, unknowns = (
        works[0].tokens,
        max(step.chosen.stage.unknowns(step.chosen.options, work) for step, work in each),
    )
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
