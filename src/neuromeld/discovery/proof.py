"""Prove of a small model of random weights what was found of its kind: units, layers, and the keys that state them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from neuromeld.archs.resolve import Architecture, resolve
from neuromeld.archs.spec import Space, Stack
from neuromeld.discovery.assemble import Proved, spec_of
from neuromeld.discovery.axes import built, shapes_of, stated_keys, with_values
from neuromeld.discovery.groups import Group
from neuromeld.errors import NeuromeldError
from neuromeld.model.surgery import keep_layers, mix_outputs, read_matrix, reversible, write_matrix

SAME, FELT = 1e-4, 1e-3
"""Logits that differ by less than the first share of the largest are the same; what changes them by less than the
second is not felt, and proves nothing."""

REMOVED = 8
"""Units that are removed: kernels for experts want multiples."""

Inputs = Mapping[str, Tensor]


class Unproved(Exception):
    """Say that what was to be proved does not hold; the message names what failed."""


@torch.no_grad()
def prove(model: PreTrainedModel, group: Group, inputs: Inputs) -> Proved:
    """Return what holds of one kind of FFN of a small model, and of its layers; raise `Unproved` where its units are
    not hidden units.
    """
    proved = Proved(group.weights, group.stack)
    try:
        arch = resolve(model, spec_of(model, proved))
    except NeuromeldError as error:
        raise Unproved(str(error).partition(": ")[2]) from error
    _prove_stream(model, arch, inputs)
    before = outputs_of(model, inputs)
    _prove_order(model, arch, inputs, before)
    narrow, shapes = _prove_removal(model, arch, inputs, before)
    failed = _config_fails(model, group, inputs, narrow, shapes)
    proved = replace(proved, ffn_keys=group.keys) if failed is None else replace(proved, native_only=failed)
    try:
        key, lists = _prove_depth(model, arch, inputs, before)
    except Unproved as error:
        return replace(proved, refusals={"drop_layers": str(error)})
    return replace(proved, count_key=key, layer_lists=lists)


def _prove_stream(model: PreTrainedModel, arch: Architecture, inputs: Inputs) -> None:
    """Layers are called with the stream first, and return it, alone or first in a tuple."""
    seen: list[bool] = []

    def called(_: Any, args: tuple[Any, ...], output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        seen.append(bool(args) and isinstance(args[0], Tensor) and isinstance(first, Tensor))

    layers = [model.get_submodule(arch.layer_path(layer)) for layer in range(arch.num_layers)]
    handles = [layer.register_forward_hook(called) for layer in layers]
    try:
        outputs_of(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    if len(seen) != len(layers):
        raise Unproved("its layers do not run once each: the model does not call them, or calls them several times")
    if not all(seen):
        raise Unproved("its layers are not called with the stream first, or do not return it first")


def _prove_order(model: PreTrainedModel, arch: Architecture, inputs: Inputs, before: Tensor) -> None:
    """Hidden units in another order leave the outputs as they are."""
    size = arch.widths[Space.FFN]
    order = torch.randperm(size, generator=torch.Generator().manual_seed(0))
    with reversible(model):
        _keep_units(model, arch, order)
        after = outputs_of(model, inputs)
    if not _same(before, after):
        raise Unproved("other outputs come of its units in another order: they are not on their own")


def _prove_removal(
    model: PreTrainedModel, arch: Architecture, inputs: Inputs, before: Tensor
) -> tuple[Tensor, dict[str, tuple[int, ...]]]:
    """Units that are removed leave what silent ones leave; return the outputs and the shapes without some."""
    kept = torch.arange(arch.widths[Space.FFN] - REMOVED)
    with reversible(model):
        for layer in _with_ffn(arch):
            consumer = arch.consumer(layer, Space.FFN)
            silent = read_matrix(model, consumer).clone()
            silent[..., len(kept) :, :] = 0
            write_matrix(model, consumer, silent)
        silenced = outputs_of(model, inputs)
    if _apart(before, silenced) < FELT:
        raise Unproved("silencing its units changes no output, so nothing can be seen of them")
    with reversible(model):
        _keep_units(model, arch, kept)
        try:
            removed = outputs_of(model, inputs)
        except Exception as error:  # whatever a forward pass makes of shapes that it does not expect
            raise Unproved(f"the model does not run without some of its units: {_first_line(error)}") from error
        shapes = shapes_of(model)
    if not _same(silenced, removed):
        raise Unproved("removing units is not what silencing them is, as where a norm runs over them")
    return removed, shapes


def _config_fails(
    model: PreTrainedModel, group: Group, inputs: Inputs, narrow: Tensor, shapes: Mapping[str, tuple[int, ...]]
) -> str | None:
    """Say why no config key states the width: it builds other shapes, or another model with the same weights."""
    if not group.keys:
        return "no key of its config states the width of its FFNs"
    key = " and ".join(group.keys)
    if not group.alone:
        return f"{key} of its config states the width of other weights, too"
    size = _width(model, group) - REMOVED
    config = with_values(model.config, dict.fromkeys(group.keys, size))
    smaller = built(type(model), config, "cpu") if config is not None else None
    if smaller is None or shapes_of(smaller) != shapes:
        return f"{key} of its config does not build FFNs of every width"
    spec = spec_of(model, Proved(group.weights, group.stack))
    with reversible(model):
        _keep_units(model, resolve(model, spec), torch.arange(size))
        smaller.load_state_dict(model.state_dict())
    return None if _same(narrow, outputs_of(smaller, inputs)) else f"{key} of its config states more than a width"


def _width(model: PreTrainedModel, group: Group) -> int:
    """Return the hidden units of one FFN of a kind."""
    consumer = group.weights[-1]
    path = f"{group.stack}.{group.layers[0]}.{consumer.path}"
    return int(read_matrix(model, replace(consumer, path=path)).shape[-2])


def _prove_depth(
    model: PreTrainedModel, arch: Architecture, inputs: Inputs, before: Tensor
) -> tuple[str, tuple[str, ...]]:
    """A layer that is dropped leaves what skipping it leaves, and a config builds the rest; return the key of the
    number of layers and the keys of lists with an entry for each.
    """
    stack, depth = arch.spec.stacks[0], arch.depths[0]
    key, lists = _depth_keys(model, stack.layers, depth)
    counted, built_elsewhere = replace(stack, count_key=key), []
    for number in range(depth):
        try:
            _prove_drop(model, counted, lists, number, inputs, before)
        except _OtherShapes as error:
            built_elsewhere.append(error)
    if built_elsewhere and (stack.alike or len(built_elsewhere) == depth):
        raise Unproved(str(built_elsewhere[0]))
    return key, lists


class _OtherShapes(Unproved):
    """The config of the layers that are left builds layers of other shapes, as that of some model may."""


def _prove_drop(
    model: PreTrainedModel, stack: Stack, lists: tuple[str, ...], number: int, inputs: Inputs, before: Tensor
) -> None:
    """Prove that one layer can be dropped; raise `_OtherShapes` where the config places its kind by the number."""
    depth = len(list(model.get_submodule(stack.layers).children()))
    what = f"layer {number} of {depth}"
    with _skipping(model, f"{stack.layers}.{number}"):
        skipped = outputs_of(model, inputs)
    if _apart(before, skipped) < FELT:
        raise Unproved(f"skipping {what} changes no output, so nothing can be seen of it")
    with reversible(model):
        keep_layers(model, stack, [i for i in range(depth) if i != number], lists)
        again = _read_again(model)
        if again is None or shapes_of(again) != shapes_of(model):
            raise _OtherShapes(f"its config builds another model without {what}")
        try:
            dropped = outputs_of(model, inputs)
        except Exception as error:  # layers that look for one another, or for a state of their number
            raise Unproved(f"the model does not run without {what}: {_first_line(error)}") from error
        again.load_state_dict(model.state_dict())
    if not _same(skipped, dropped):
        raise Unproved(f"without {what} the others do not do what they do when it is skipped")
    if not _same(dropped, outputs_of(again, inputs)):
        raise Unproved(f"a layer is told by its number what to do: without {what} others do something else")


def _read_again(model: PreTrainedModel) -> PreTrainedModel | None:
    """Return the model, of other weights, that the config of a changed model builds when it is read again."""
    try:
        config = type(model.config).from_dict(model.config.to_dict())
    except Exception:  # validators of configs raise what they like
        return None
    return built(type(model), config, "cpu")


def _depth_keys(model: PreTrainedModel, path: str, depth: int) -> tuple[str, tuple[str, ...]]:
    """Return the key that states the number of layers, and the keys of lists with an entry for each."""
    stated = dict(stated_keys(model.config.to_dict()))
    numbers = [key for key, value in stated.items() if value == depth and type(value) is int]
    for key in numbers:
        part = key.rpartition(".")[0]
        lists = [
            name
            for name, value in stated.items()
            if isinstance(value, list) and len(value) == depth and not name.endswith(("_id", "_ids"))
            if name.rpartition(".")[0] == part
        ]
        config = with_values(model.config, {key: depth - 1} | {name: stated[name][:-1] for name in lists})
        smaller = built(type(model), config) if config is not None else None
        if smaller is not None and len(smaller.get_submodule(path)) == depth - 1:  # type: ignore[arg-type]
            return key, tuple(lists)
    raise Unproved("no key of its config states the number of its layers alone")


@contextmanager
def _skipping(model: PreTrainedModel, path: str) -> Iterator[None]:
    """Inside, a layer returns the stream that enters it, in the place of the one that would leave it."""
    layer: Any = model.get_submodule(path)
    forward = layer.forward

    def skip(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        output = forward(hidden, *args, **kwargs)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    layer.forward = skip
    try:
        yield
    finally:
        del layer.forward


def _keep_units(model: PreTrainedModel, arch: Architecture, kept: Tensor) -> None:
    for layer in _with_ffn(arch):
        for producer in arch.producers(layer, Space.FFN):
            mix_outputs(model, producer, kept)
        consumer = arch.consumer(layer, Space.FFN)
        write_matrix(model, consumer, read_matrix(model, consumer)[..., kept, :])


def _with_ffn(arch: Architecture) -> list[int]:
    return [layer for layer in range(arch.num_layers) if layer not in arch.without_ffn]


@torch.no_grad()
def outputs_of(model: PreTrainedModel, inputs: Inputs) -> Tensor:
    """Return the logits of a batch, without a cache of keys and values."""
    arguments: dict[str, Any] = dict(inputs)
    if hasattr(model.config.get_text_config(), "use_cache"):
        arguments["use_cache"] = False
    logits: Tensor = model(**arguments).logits
    return logits.double()


def _apart(one: Tensor, other: Tensor) -> float:
    """Return the largest difference over the largest value."""
    return float((one - other).abs().max() / one.abs().max())


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and _apart(one, other) < SAME


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
