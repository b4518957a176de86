"""Prove of a small model of random weights what was found of its kind: units, layers, and the keys that state them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from neuromeld.archs.resolve import Architecture, resolve
from neuromeld.archs.spec import Space, Stack
from neuromeld.discovery.assemble import Proved, ProvedStack, spec_of
from neuromeld.discovery.axes import built, shapes_of, stated_keys, with_values
from neuromeld.discovery.groups import Group
from neuromeld.discovery.switches import switched_off
from neuromeld.errors import NeuromeldError
from neuromeld.model.outputs import outputs
from neuromeld.model.surgery import keep_layers, mix_outputs, read_matrix, reversible, write_matrix

SAME, FELT = 1e-4, 1e-3
"""Logits that differ by less than the first share of the largest are the same; what changes them by less than the
second is not felt, and proves nothing."""

REMOVED = 8
"""Units that are removed: kernels for experts want multiples."""

Inputs = Mapping[str, Tensor]

DECODED = "decoder_input_ids"


class Unproved(Exception):
    """Say that what was to be proved does not hold; the message names what failed."""


@torch.no_grad()
def prove(model: PreTrainedModel, group: Group, inputs: Inputs) -> Proved:
    """Return what holds of one kind of FFN of a small model, and of its layers; raise `Unproved` where its units are
    not hidden units.
    """
    proved = Proved(tuple(ProvedStack(part.stack, part.weights) for part in group.parts), staged=group.staged)
    try:
        arch = resolve(model, spec_of(model, proved))
    except NeuromeldError as error:
        raise Unproved(str(error).partition(": ")[2]) from error
    lengths = _prove_stream(model, arch, inputs)
    proved = replace(proved, stacks=_with_masks(proved.stacks, lengths, inputs))
    before = outputs_of(model, inputs)
    _prove_order(model, arch, inputs, before)
    narrow, shapes = _prove_removal(model, arch, inputs, before)
    proved = _stated(model, group, proved, lambda way: _config_fails(model, way, arch, inputs, narrow, shapes))
    try:
        keys, lists = _prove_depth(model, arch, inputs, before)
    except Unproved as error:
        return replace(proved, refusals={"drop_layers": str(error)})
    counted = tuple(replace(stack, count_key=key) for stack, key in zip(proved.stacks, keys, strict=True))
    return replace(proved, stacks=counted, layer_lists=lists)


@dataclass(frozen=True)
class _Way:
    """A way to state the width of FFNs: by keys, with some switches turned off."""

    group: Group
    off: tuple[str, ...] = ()

    def changes(self, width: int) -> dict[str, Any]:
        """Return the values of the config with which FFNs are to have a width."""
        return dict.fromkeys(self.group.keys, width) | dict.fromkeys(self.off, False)


def _stated(model: PreTrainedModel, group: Group, proved: Proved, fails: Callable[[_Way], str | None]) -> Proved:
    """Return what is proved with the keys that state the width, and the switch that has to be off for that; or with why
    none does.
    """
    failed = fails(_Way(group))
    if failed is None:
        return replace(proved, ffn_keys=group.keys)
    for switch, found in switched_off(model, group):
        if fails(_Way(found, (switch,))) is None:
            return replace(proved, ffn_keys=found.keys, switches_off=(switch,))
    return replace(proved, native_only=failed)


def _prove_stream(model: PreTrainedModel, arch: Architecture, inputs: Inputs) -> list[int]:
    """Layers are called once each, in order, with the stream first, and return it, alone or first in a tuple; return
    how many positions each reads.
    """
    seen: list[int] = []
    lengths: list[int] = []

    def called(number: int) -> Any:
        def hook(_: Any, args: tuple[Any, ...], output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            seen.append(number)
            if args and isinstance(args[0], Tensor) and isinstance(first, Tensor):
                lengths.append(args[0].shape[-2])

        return hook

    layers = range(arch.num_layers)
    handles = [model.get_submodule(arch.layer_path(i)).register_forward_hook(called(i)) for i in layers]
    try:
        outputs_of(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    if len(seen) != len(layers):
        raise Unproved("its layers do not run once each: the model does not call them, or calls them several times")
    if seen != [*layers]:
        raise Unproved("its layers do not run one after the other")
    if len(lengths) != len(seen):
        raise Unproved("its layers are not called with the stream first, or do not return it first")
    return lengths


def _with_masks(stacks: tuple[ProvedStack, ...], lengths: list[int], inputs: Inputs) -> tuple[ProvedStack, ...]:
    """Name the mask of each stack by how many positions its layers read: those of the source, or of the target."""
    if DECODED not in inputs:
        return stacks
    ends = (lengths[0], lengths[-1])
    masks = ["decoder_attention_mask" if end == inputs[DECODED].shape[1] else "attention_mask" for end in ends]
    return tuple(replace(stack, mask=mask) for stack, mask in zip(stacks, masks, strict=False))


def _prove_order(model: PreTrainedModel, arch: Architecture, inputs: Inputs, before: Tensor) -> None:
    """Hidden units in another order leave the outputs as they are."""
    generator = torch.Generator().manual_seed(0)
    with reversible(model):
        _keep_units(model, arch, lambda size: torch.randperm(size, generator=generator))
        after = outputs_of(model, inputs)
    if not same(before, after):
        raise Unproved("other outputs come of its units in another order: they are not on their own")


def _prove_removal(
    model: PreTrainedModel, arch: Architecture, inputs: Inputs, before: Tensor
) -> tuple[Tensor, dict[str, tuple[int, ...]]]:
    """Units that are removed leave what silent ones leave; return the outputs and the shapes without some."""
    with reversible(model):
        for layer in _with_ffn(arch):
            consumer = arch.consumer(layer, Space.FFN)
            silent = read_matrix(model, consumer).clone()
            silent[..., -REMOVED:, :] = 0
            write_matrix(model, consumer, silent)
        silenced = outputs_of(model, inputs)
    if apart(before, silenced) < FELT:
        raise Unproved("silencing its units changes no output, so nothing can be seen of them")
    with reversible(model):
        _keep_units(model, arch, _first_units)
        try:
            removed = outputs_of(model, inputs)
        except Exception as error:  # whatever a forward pass makes of shapes that it does not expect
            raise Unproved(f"the model does not run without some of its units: {_first_line(error)}") from error
        shapes = shapes_of(model)
    if not same(silenced, removed):
        raise Unproved("removing units is not what silencing them is, as where a norm runs over them")
    return removed, shapes


def _config_fails(
    model: PreTrainedModel,
    way: _Way,
    arch: Architecture,
    inputs: Inputs,
    narrow: Tensor,
    shapes: Mapping[str, tuple[int, ...]],
) -> str | None:
    """Say why no config key states the width: it builds other shapes, or another model with the same weights."""
    group = way.group
    if not group.keys:
        return "no key of its config states the width of its FFNs"
    key = " and ".join(group.keys)
    if not group.alone:
        return f"{key} of its config states the width of other weights, too"
    width = arch.widths[Space.FFN]
    if any(_built_with(model, way, size) is None for size in (width // 2 // REMOVED * REMOVED, REMOVED)):
        return f"{key} of its config does not build FFNs of every width"
    smaller = _built_with(model, way, width - REMOVED, "cpu")
    if smaller is None or shapes_of(smaller) != shapes:
        return f"{key} of its config does not build FFNs of every width"
    with reversible(model):
        _keep_units(model, arch, _first_units)
        smaller.load_state_dict(model.state_dict())
    return None if same(narrow, outputs_of(smaller, inputs)) else f"{key} of its config states more than a width"


def _built_with(model: PreTrainedModel, way: _Way, size: int, device: str = "meta") -> PreTrainedModel | None:
    """Return the model that the config builds with FFNs of a size; None where it builds none of that size."""
    config = with_values(model.config, way.changes(size))
    smaller = built(type(model), config, device) if config is not None else None
    if smaller is None:
        return None
    consumers = [
        replace(part.weights[-1], path=f"{part.stack}.{part.layers[0]}.{part.weights[-1].path}")
        for part in way.group.parts
    ]
    widths = {read_matrix(smaller, consumer).shape[-2] for consumer in consumers}
    return smaller if widths == {size} else None


def _prove_depth(
    model: PreTrainedModel, arch: Architecture, inputs: Inputs, before: Tensor
) -> tuple[list[str], tuple[str, ...]]:
    """A layer that is dropped, of every stack, leaves what skipping it leaves, and a config builds the rest; return
    the keys of the numbers of layers and the keys of lists with an entry for each.
    """
    layers = zip(arch.spec.stacks, arch.depths, strict=True)
    found = [_depth_keys(model, stack.layers, depth) for stack, depth in layers]
    keys, lists = [key for key, _ in found], tuple(dict.fromkeys(name for _, names in found for name in names))
    stacks = [replace(stack, count_key=key) for stack, key in zip(arch.spec.stacks, keys, strict=True)]
    alike = all(stack.alike for stack in stacks)
    if len(stacks) > 1 and not alike:
        raise Unproved(
            "the layers of one of its stages are not all of one shape"
            if arch.spec.staged
            else "the layers of its encoder, or of its decoder, are not all of one shape"
        )
    built_elsewhere = []
    for number in range(min(arch.depths)):
        try:
            _prove_drop(model, stacks, lists, number, inputs, before)
        except _OtherShapes as error:
            built_elsewhere.append(error)
    if built_elsewhere and (alike or len(built_elsewhere) == min(arch.depths)):
        raise Unproved(str(built_elsewhere[0]))
    return keys, lists


class _OtherShapes(Unproved):
    """The config of the layers that are left builds layers of other shapes, as that of some model may."""


def _prove_drop(
    model: PreTrainedModel, stacks: list[Stack], lists: tuple[str, ...], number: int, inputs: Inputs, before: Tensor
) -> None:
    """Prove that one layer can be dropped; raise `_OtherShapes` where the config places its kind by the number."""
    depths = [len(list(model.get_submodule(stack.layers).children())) for stack in stacks]
    what = f"layer {number} of {' and '.join(map(str, depths))}"
    with _skipping(model, [f"{stack.layers}.{number}" for stack in stacks]):
        skipped = outputs_of(model, inputs)
    if apart(before, skipped) < FELT:
        raise Unproved(f"skipping {what} changes no output, so nothing can be seen of it")
    with reversible(model):
        for stack, depth in zip(stacks, depths, strict=True):
            keep_layers(model, stack, [i for i in range(depth) if i != number], lists)
        again = _read_again(model)
        if again is None or shapes_of(again) != shapes_of(model):
            raise _OtherShapes(f"its config builds another model without {what}")
        try:
            dropped = outputs_of(model, inputs)
        except Exception as error:  # layers that look for one another, or for a state of their number
            raise Unproved(f"the model does not run without {what}: {_first_line(error)}") from error
        again.load_state_dict(model.state_dict())
    if not same(skipped, dropped):
        raise Unproved(f"without {what} the others do not do what they do when it is skipped")
    if not same(dropped, outputs_of(again, inputs)):
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
    numbers += [
        f"{key}.{i}"
        for key, value in stated.items()
        if isinstance(value, list | tuple)
        for i, entry in enumerate(value)
        if entry == depth and type(entry) is int
    ]
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
def _skipping(model: PreTrainedModel, paths: list[str]) -> Iterator[None]:
    """Inside, layers return the stream that enters them, in the place of the one that would leave them."""
    layers: list[Any] = [model.get_submodule(path) for path in paths]

    def skipped(forward: Callable[..., Any]) -> Callable[..., Any]:
        def skip(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            output = forward(hidden, *args, **kwargs)
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return skip

    for layer in layers:
        layer.forward = skipped(layer.forward)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _first_units(size: int) -> Tensor:
    """Return the units that stay where the last are removed."""
    return torch.arange(size - REMOVED)


def _keep_units(model: PreTrainedModel, arch: Architecture, choose: Callable[[int], Tensor]) -> None:
    """Keep of every FFN the units that are chosen by their number."""
    for layer in _with_ffn(arch):
        kept = choose(arch.size(Space.FFN, layer))
        for producer in arch.producers(layer, Space.FFN):
            mix_outputs(model, producer, kept)
        consumer = arch.consumer(layer, Space.FFN)
        write_matrix(model, consumer, read_matrix(model, consumer)[..., kept, :])


def _with_ffn(arch: Architecture) -> list[int]:
    return [layer for layer in range(arch.num_layers) if layer not in arch.without_ffn]


@torch.no_grad()
def outputs_of(model: PreTrainedModel, inputs: Inputs) -> Tensor:
    """Return what a model says of a batch, without a cache of keys and values."""
    return outputs(model, inputs).double()


def apart(one: Tensor, other: Tensor) -> float:
    """Return the largest difference over the largest value."""
    return float((one - other).abs().max() / one.abs().max())


def same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and apart(one, other) < SAME


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
