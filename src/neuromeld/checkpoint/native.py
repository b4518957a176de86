"""Turn a live stock model that was narrowed into its native class."""

from typing import Any

import transformers
from transformers import PreTrainedModel

from neuromeld.archs import ARCHITECTURES, BY_CLASS, Architecture
from neuromeld.archs.spec import FFN, RESIDUAL, Weight
from neuromeld.checkpoint.classes import auto_class
from neuromeld.checkpoint.modeling import declare_shared, headless_model, native_config, native_model
from neuromeld.plan import Plan
from neuromeld.sizes import space_size
from neuromeld.surgery import shared_parameters


def register_native() -> None:
    """Make transformers' auto classes load native checkpoints of every known architecture, without remote code."""
    for spec in (*ARCHITECTURES.values(), *BY_CLASS.values()):
        stock: Any = getattr(transformers, spec.model_class)
        native, config = native_model(stock), native_config(stock.config_class)
        transformers.AutoConfig.register(config.model_type, config, exist_ok=True)
        headless: Any = headless_model(stock)
        auto_class(stock).register(config, native, exist_ok=True)
        transformers.AutoModel.register(config, native_model(headless), exist_ok=True)


def native_block(model: PreTrainedModel, arch: Architecture, plan: Plan) -> dict[str, Any]:
    """The `neuromeld` entry of the config of a native checkpoint; `modeling.py` says what its keys mean."""
    spec, narrowed = arch.spec, plan.recipe.width is not None
    embedding_norm = spec.embedding_norm if narrowed else None
    widths: dict[str, int | list[int]] = {RESIDUAL: plan.after.hidden}
    changed = [RESIDUAL] if narrowed else []
    for space, width in arch.widths.items():
        sizes = [space_size(arch, plan.before, plan.after, i, space) for i in range(plan.after.num_layers)]
        if space != RESIDUAL and any(size != width for size in sizes):
            changed.append(space)
            widths[space] = sizes
            weights = (weight for stack in spec.stacks for weight in stack.weights)
            repeated = {_name(weight): weight.repeats for weight in weights if weight.out == space}
            widths |= {name: [repeats * size for size in sizes] for name, repeats in repeated.items()}
    paths = [arch.consumer(layer, FFN).path for layer in range(arch.num_layers)]
    consumers: dict[str, Any] = {path: model.get_submodule(path) for path in paths}
    return {
        "widths": widths,
        "layers": [stack.layers for stack in spec.stacks],
        "head": spec.head.path if spec.head else None,
        "resized": [entry for space in sorted(changed) for entry in _resized(arch, space)],
        "shared": [
            names
            for stack in spec.stacks
            for names in shared_parameters(model.get_submodule(stack.layers), stack.layers)
        ],
        "gains": [path for path, module in consumers.items() if hasattr(module, "gain")],
        "low_rank": [[path, module.down.out_features] for path, module in consumers.items() if hasattr(module, "down")],
        "shortcuts": list(plan.starts[1:]),
        "head_adapter": plan.head_adapter,
        "token_scale": spec.embeddings[0].path if embedding_norm else None,
        "identity": embedding_norm.path if embedding_norm else None,
    }


def make_native(model: PreTrainedModel, block: dict[str, Any]) -> None:
    """Give a model whose weights are narrow and whose hooks are attached already the native class and config."""
    # The classes change in place: every module holds this config, with private state that a copy would lose.
    stock: Any = type(model)
    native: Any = native_model(stock)
    model.__class__, model.config.__class__ = native, native.config_class
    model.config.neuromeld = block
    declare_shared(model, block)


def _name(weight: Weight) -> str:
    """What the outputs of a weight are called: their space, as often as they run through it."""
    return "+".join([weight.out] * weight.repeats)


def _resized(arch: Architecture, space: str) -> list[list[str]]:
    """Every module that has an axis of `space`, and which axis that is."""
    spec = arch.spec
    in_layers = [(f"{stack.layers}.*.{w.path}", w) for stack in spec.stacks for w in stack.weights]
    outside = (*spec.embeddings, *([spec.head] if spec.head else []))
    weights = [*((w.path, w) for w in outside), *in_layers]
    norms = [f"{stack.layers}.*.{n.path}" for stack in spec.stacks for n in stack.norms if n.over == space]
    norms += [spec.final_norm.path] if spec.final_norm and spec.final_norm.over == space else []
    return [
        *([path, "in", space] for path, w in weights if w.in_ == space),
        *([path, "out", _name(w)] for path, w in weights if w.out == space),
        *([path, "both", space] for path in norms),
    ]
