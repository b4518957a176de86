"""Turn a live stock model that was narrowed into its native class."""

from typing import Any

import transformers
from torch import nn
from transformers import PreTrainedModel

from neuromeld.archs import ARCHITECTURES, BY_CLASS, Architecture
from neuromeld.archs.classes import classes_of_type
from neuromeld.archs.spec import Space, Weight
from neuromeld.model.native.classes import auto_class, has_auto_class
from neuromeld.model.native.modeling import declare_shared, headless_model, native_config, native_model
from neuromeld.model.surgery import read_matrix, shared_parameters


def register_native(model_type: str | None = None) -> None:
    """Make transformers' auto classes load native checkpoints without remote code.

    model_type   of the stock models that they are the native form of; None is every known one
    """
    specs = [*ARCHITECTURES.values(), *BY_CLASS.values()]
    described = [spec.model_class for spec in specs if model_type in (None, spec.model_type)]
    classes: list[Any] = [*reversed(classes_of_type(model_type))] if model_type else []
    # Of several for one auto class the last counts; a described class may be somebody's own, which none loads.
    classes += [getattr(transformers, name) for name in described if hasattr(transformers, name)]
    for stock in filter(has_auto_class, classes):
        native, config = native_model(stock), native_config(stock.config_class)
        transformers.AutoConfig.register(config.model_type, config, exist_ok=True)
        auto_class(stock).register(config, native, exist_ok=True)
        headless: Any = headless_model(stock)
        if headless is not None:
            transformers.AutoModel.register(config, native_model(headless), exist_ok=True)


def native_block(model: PreTrainedModel, arch: Architecture) -> dict[str, Any]:
    """Describe a live model that was narrowed, as the `neuromeld` entry of its config (keys: `modeling.py`).

    arch   as resolved before anything was narrowed, without the layers that were dropped

    Sizes are those of the weights themselves, so that the entry cannot say anything else than the model.
    """
    spec, found = arch.spec, _space_sizes(model, arch)
    changed = [
        space
        for space, sizes in found.items()
        if any(size != arch.size(space, layer) for layer, size in enumerate(sizes))
    ]
    widths: dict[str, int | list[int]] = {Space.RESIDUAL: found[Space.RESIDUAL][0]}
    for space in changed:
        if space == Space.RESIDUAL:
            continue
        widths[space] = found[space]
        weights = (weight for stack in spec.stacks for weight in stack.weights)
        repeated = {_name(weight): weight.repeats for weight in weights if weight.out == space}
        widths |= {name: [repeats * size for size in found[space]] for name, repeats in repeated.items()}
    paths = [arch.consumer(layer, Space.FFN).path for layer in arch.layers_with(Space.FFN)]
    consumers: dict[str, Any] = {path: model.get_submodule(path) for path in paths}
    layers = [model.get_submodule(arch.layer_path(layer)) for layer in range(arch.num_layers)]
    embedding = spec.embeddings[0].path if spec.embeddings else None
    norm = spec.embedding_norm
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
        "narrow_tables": _narrow_tables(model, arch),
        "shortcuts": [index for index, layer in enumerate(layers) if hasattr(layer, "shortcut")],
        "head_adapter": hasattr(model, "head_adapter"),
        "token_scale": embedding if embedding and hasattr(model.get_submodule(embedding), "scale") else None,
        "identity": norm.path if norm and isinstance(model.get_submodule(norm.path), nn.Identity) else None,
    }


def _narrow_tables(model: PreTrainedModel, arch: Architecture) -> list[list[Any]]:
    """Return the paths of the embedding and the head with a matrix beside them, with the rank."""
    tables = (*arch.spec.embeddings[:1], *([arch.spec.head] if arch.spec.head else []))
    modules: dict[str, Any] = {weight.path: model.get_submodule(weight.path) for weight in tables}
    ups = [[path, module.up.in_features] for path, module in modules.items() if hasattr(module, "up")]
    return ups + [[path, module.down.out_features] for path, module in modules.items() if hasattr(module, "down")]


def _space_sizes(model: PreTrainedModel, arch: Architecture) -> dict[Space, list[int]]:
    """Return the size of every space in each layer, read off the weights."""
    found: dict[Space, list[int]] = {}
    for layer in range(arch.num_layers):
        for weight in arch.layer_weights(layer):
            size_in, size_out = read_matrix(model, weight).shape[-2:]
            for space, size in ((weight.in_, size_in), (weight.out, size_out // weight.repeats)):
                if space not in found:
                    found[space] = [arch.size(space, other) for other in range(arch.num_layers)]
                found[space][layer] = size
    return found


def make_native(model: PreTrainedModel, block: dict[str, Any]) -> None:
    """Give a model whose weights are narrow and whose hooks are attached already the native class and config."""
    # The classes change in place: every module holds this config, with private state that a copy would lose.
    stock: Any = type(model)
    register_native(model.config.model_type)
    native: Any = native_model(stock)
    model.__class__, model.config.__class__ = native, native.config_class
    model.config.neuromeld = block
    declare_shared(model, block)
    # The names that stock checkpoints have on disk are translated for stock classes only.
    model._weight_conversions = []  # type: ignore[assignment]


def _name(weight: Weight) -> str:
    """Return what the outputs of a weight are called: their space, as often as they run through it."""
    return "+".join([weight.out] * weight.repeats)


def _resized(arch: Architecture, space: Space) -> list[list[str]]:
    """Return every parameter that has an axis of `space`, and which axis that is."""
    spec = arch.spec
    in_layers = [(f"{stack.layers}.*.{w.path}", w) for stack in spec.stacks for w in stack.weights]
    outside = (*spec.embeddings, *([spec.head] if spec.head else []))
    weights = [*((w.path, w) for w in outside), *in_layers]
    norms = [f"{stack.layers}.*.{n.path}" for stack in spec.stacks for n in stack.norms if n.over == space]
    norms += [spec.final_norm.path] if spec.final_norm and spec.final_norm.over == space else []
    return [
        *([path, "in", space, w.name] for path, w in weights if w.in_ == space),
        *([path, "out", _name(w), w.name] for path, w in weights if w.out == space),
        *([path, "both", space, "weight"] for path in norms),
    ]
