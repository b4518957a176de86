"""Find the experts of a small model by the config key that states their number, and prove that fewer may be left."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from neuromeld.archs.spec import Mixture
from neuromeld.discovery.axes import built, stated_keys, with_values
from neuromeld.discovery.groups import place_of
from neuromeld.discovery.proof import FELT, Inputs, Unproved, apart, outputs_of, same
from neuromeld.discovery.small import ROUTED
from neuromeld.model.surgery import keep_experts, reversible, write_num_experts

NUMBER = re.compile(r"experts$|expert_num$")
"""How the keys of numbers of experts end."""

GROUPS = re.compile(r"(^|_)n_group$|expert_groups?$|num_groups?$")


@dataclass(frozen=True)
class FoundMixture:
    """The experts of one list of layers, by its path, and those of its layers that have some."""

    stack: str
    layers: tuple[int, ...]
    mixture: Mixture


@torch.no_grad()
def prove_mixture(model: PreTrainedModel, inputs: Inputs) -> FoundMixture | None:
    """Return the experts of a small model; None where its config states no number of them.

    Raises `Unproved` where they are not experts that fewer of may be left.
    """
    stated = dict(stated_keys(model.config.to_dict()))
    keys = [key for key, value in stated.items() if NUMBER.search(key) and type(value) is int and value > 1]
    keys = [key for key in keys if "shared" not in key]
    if not keys:
        return None
    problems = []
    for key in keys:
        try:
            return _proved(model, _found(model, key, stated), inputs)
        except Unproved as error:
            problems.append(f"{key}: {error}")
    raise Unproved("; ".join(problems))


def _found(model: PreTrainedModel, key: str, stated: dict[str, Any]) -> FoundMixture:
    """Return what changes with the number of experts: one axis of each tensor, and numbers that modules carry."""
    total, fewer = stated[key], _fewer(stated[key])
    smaller = _with_experts(model, key, fewer)
    if smaller is None:
        raise Unproved("the config builds no model with fewer experts")
    axes = _axes(_tensors(model), _tensors(smaller), total, fewer)
    places = {name: place for name in axes if (place := place_of(name)) is not None}
    stacks = {stack for stack, *_ in places.values()}
    if len(stacks) != 1 or len(places) < len(axes):
        raise Unproved("its experts are in no list of layers, or in several")
    tensors = dict.fromkeys((places[name][2], axis) for name, axis in axes.items())
    counts = [*_numbers(model, smaller, total, fewer)]
    mixture = Mixture(
        experts="",
        tensors=tuple(tensors),
        counts=tuple(dict.fromkeys((place[2], name) for path, name in counts if (place := place_of(path)))),
        counts_of_model=tuple((path, name) for path, name in counts if place_of(path) is None),
        key=key,
        groups_key=next((name for name in _beside(key, stated) if GROUPS.search(name) and stated[name] > 1), None),
    )
    return FoundMixture(stacks.pop(), tuple(sorted({number for _, number, _ in places.values()})), mixture)


def _axes(old: dict[str, Tensor], new: dict[str, Tensor], total: int, fewer: int) -> dict[str, int]:
    """Return the axis of each tensor, by name, that has an entry for each expert."""
    if old.keys() != new.keys():
        raise Unproved("each of its experts is a module, and no entry of a tensor")
    found = {}
    for name, tensor in old.items():
        changed = [i for i, (a, b) in enumerate(zip(tensor.shape, new[name].shape, strict=True)) if a != b]
        if not changed:
            continue
        axis = changed[0]
        if len(changed) > 1 or (tensor.shape[axis], new[name].shape[axis]) != (total, fewer):
            raise Unproved(f"the key states another size of {name}, too")
        found[name] = axis
    return found


def _proved(model: PreTrainedModel, found: FoundMixture, inputs: Inputs) -> FoundMixture:
    found = _with_calls(model, found, inputs)
    total = _total(model, found)
    before = outputs_of(model, inputs)
    with reversible(model):  # groups stay groups
        _keep(model, found, torch.arange(total).flip(0), total)
        if not same(before, outputs_of(model, inputs)):
            raise Unproved("other outputs come of its experts in another order: something else goes by their numbers")
    kept = _second_half(model, found, total)
    again = _with_experts(model, found.mixture.key, len(kept), "cpu")
    with reversible(model):
        _keep(model, found, kept, total)
        after, chosen = outputs_of(model, inputs), _call(model, found, inputs)[1]
        if apart(before, after) < FELT:
            raise Unproved("half of its experts change no output, so nothing can be seen of them")
        shapes = [{name: tensor.shape for name, tensor in _tensors(one).items()} for one in (model, again) if one]
        if again is None or shapes[0] != shapes[1]:
            raise Unproved("the config with fewer experts builds another model")
        again.load_state_dict(model.state_dict())
    if int(chosen.max()) >= len(kept) or not same(after, outputs_of(again, inputs)):
        raise Unproved("the config with fewer experts builds a model that does something else")
    return found


def _with_calls(model: PreTrainedModel, found: FoundMixture, inputs: Inputs) -> FoundMixture:
    """Name the module that is called with tokens, choices and shares, whose experts write sums by these shares."""
    stacked = next((name for name, axis in found.mixture.tensors if axis == 0 and _dim(model, found, name) == 3), None)
    if stacked is None:
        raise Unproved("no matrices lie one on top of the other, one for each expert")
    found = replace(found, mixture=replace(found.mixture, experts=stacked.rpartition(".")[0]))
    x, chosen, shares = _call(model, found, inputs)
    experts = _experts(model, found)
    written = torch.zeros_like(x)
    for column in range(chosen.shape[1]):
        one = chosen[:, column : column + 1]
        written += shares[:, column : column + 1] * experts(x, one, torch.ones_like(shares[:, :1]))
    if not same(written, experts(x, chosen, shares)):
        raise Unproved("what its experts write is no sum by their shares")
    return replace(found, mixture=replace(found.mixture, active_key=_active_key(model, found, inputs, chosen.shape[1])))


def _call(model: PreTrainedModel, found: FoundMixture, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the experts of the first layer that has some are called with."""
    seen: list[tuple[Any, ...]] = []
    handle = _experts(model, found).register_forward_pre_hook(lambda _, args: seen.append(args))
    try:
        outputs_of(model, inputs)
    finally:
        handle.remove()
    given = seen[0] if seen else ()
    if len(given) != 3 or not all(isinstance(x, Tensor) and x.dim() == 2 for x in given):
        raise Unproved("its experts are not called with tokens, the experts chosen for each, and their shares")
    x, chosen, shares = given
    if chosen.is_floating_point() or chosen.shape != shares.shape or len(x) != len(chosen):
        raise Unproved("its experts are not called with tokens, the experts chosen for each, and their shares")
    return x, chosen, shares


def _active_key(model: PreTrainedModel, found: FoundMixture, inputs: Inputs, active: int) -> str:
    """Return the config key of the number of experts that a token is sent to."""
    stated = dict(stated_keys(model.config.to_dict()))
    other = active - 1 or 2
    for name in _beside(found.mixture.key, stated):
        if not ROUTED.search(name) or stated[name] != active:
            continue
        config = with_values(model.config, {name: other})
        changed = built(type(model), config, "cpu") if config is not None else None
        if changed is not None and _call(changed, found, inputs)[1].shape[1] == other:
            return name
    raise Unproved("no key of its config states how many experts a token is sent to")


def _beside(key: str, stated: dict[str, Any]) -> Iterator[str]:
    """Yield the keys of whole numbers in the part of a config that a key is in."""
    part = key.rpartition(".")[0]
    yield from (name for name, value in stated.items() if type(value) is int and name.rpartition(".")[0] == part)


def _fewer(total: int) -> int:
    """Return half of an even number, or one less: what a token is sent to, one or two, is left."""
    return total - 1 if total % 2 or total < 4 else total // 2


def _second_half(model: PreTrainedModel, found: FoundMixture, total: int) -> Tensor:
    """Return the last experts of every group, as many in all as `_fewer` says."""
    key = found.mixture.groups_key
    groups = dict(stated_keys(model.config.to_dict()))[key] if key else 1
    return torch.arange(total).view(groups, -1)[:, -(_fewer(total) // groups) :].flatten()


def _with_experts(model: PreTrainedModel, key: str, number: int, device: str = "meta") -> PreTrainedModel | None:
    config = with_values(model.config, {key: number})
    return built(type(model), config, device) if config is not None else None


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _numbers(model: nn.Module, smaller: nn.Module, total: int, fewer: int) -> Iterator[tuple[str, str]]:
    """Yield modules and attributes that say how many experts there are."""
    others = dict(smaller.named_modules())
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if type(value) is int and value == total and vars(others[path]).get(name) == fewer:
                yield path, name


def _keep(model: PreTrainedModel, found: FoundMixture, kept: Tensor, total: int) -> None:
    for number in found.layers:
        keep_experts(model.get_submodule(f"{found.stack}.{number}"), found.mixture, kept, total)
    write_num_experts(model, found.mixture, len(kept))


def _experts(model: PreTrainedModel, found: FoundMixture) -> Any:
    return model.get_submodule(f"{found.stack}.{found.layers[0]}.{found.mixture.experts}")


def _dim(model: PreTrainedModel, found: FoundMixture, name: str) -> int:
    return _tensors(model)[f"{found.stack}.{found.layers[0]}.{name}"].dim()


def _total(model: PreTrainedModel, found: FoundMixture) -> int:
    total: int = dict(stated_keys(model.config.to_dict()))[found.mixture.key]
    return total
