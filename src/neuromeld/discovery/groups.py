"""Find the FFNs of a model among the axes that its config keys state."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from neuromeld.archs.spec import Layout, Space, Weight
from neuromeld.discovery.axes import Axis, axes_by_key, shapes_of


@dataclass(frozen=True)
class Group:
    """FFNs of one kind.

    weights  of one of them: what writes its hidden units, and then what reads them; paths start at the layer
    stack    path of the list of their layers
    layers   that have one
    keys     config keys that state their width
    alone    nothing else has that width
    """

    weights: tuple[Weight, ...]
    stack: str
    layers: tuple[int, ...]
    keys: tuple[str, ...]
    alone: bool

    @property
    def stacked(self) -> bool:
        """Whether these are the experts of a mixture, one on top of the other."""
        return any(weight.stacked for weight in self.weights)


def groups_of(model: PreTrainedModel) -> list[Group]:
    """Return the kinds of FFNs of a small model, on any device; the ones with most parameters first.

    A config key that states an axis outside of layers, such as the width of the stream, states no FFN.
    """
    found: dict[tuple[Any, ...], Group] = {}
    for key, axes in axes_by_key(type(model), model.config, shapes_of(model)):
        for group in _grouped(model, key, axes):
            same = (group.weights, group.stack)
            if same not in found or (group.alone and not found[same].alone):
                found[same] = group
    groups = [*found.values()] or _without_key(model)
    return sorted(groups, key=lambda group: -_parameters(model, group))


def _without_key(model: PreTrainedModel) -> list[Group]:
    """Return FFNs by their shapes alone: matrices from the stream to another width, and from there back to the stream.

    For models whose config states no width for them, such as one that is always four times that of the stream.
    """
    width = getattr(model.get_input_embeddings(), "embedding_dim", None)
    in_layers: dict[tuple[str, int, int], list[Weight]] = defaultdict(list)
    for path, module in model.named_modules():
        place = place_of(path)
        if place is None or not isinstance(module, nn.Linear | Conv1D):
            continue
        layout: Layout = "conv1d" if isinstance(module, Conv1D) else "linear"
        size_in, size_out = module.weight.shape if layout == "conv1d" else module.weight.shape[::-1]
        if size_in == width != size_out:
            in_layers[(*place[:2], size_out)].append(Weight(path, Space.RESIDUAL, Space.FFN, layout=layout))
        elif size_out == width != size_in:
            in_layers[(*place[:2], size_in)].append(Weight(path, Space.FFN, Space.RESIDUAL, layout=layout))
    kinds: dict[tuple[tuple[Weight, ...], str], list[int]] = defaultdict(list)
    for (stack, number, _), weights in in_layers.items():
        for unit in _units(weights):
            local = tuple(replace(w, path=w.path.removeprefix(f"{stack}.{number}.")) for w in unit)
            kinds[local, stack].append(number)
    return [Group(unit, stack, tuple(numbers), (), False) for (unit, stack), numbers in kinds.items()]


def place_of(path: str) -> tuple[str, int, str] | None:
    """Return list, number and the path from the layer on, of what is in a list of layers; None of anything else."""
    parts = path.split(".")
    first = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    return None if first is None else (".".join(parts[:first]), int(parts[first]), ".".join(parts[first + 1 :]))


def _parameters(model: PreTrainedModel, group: Group) -> int:
    path = f"{group.stack}.{group.layers[0]}"
    matrices = (getattr(model.get_submodule(f"{path}.{w.path}"), w.name) for w in group.weights)
    return len(group.layers) * sum(int(matrix.numel()) for matrix in matrices)


def _grouped(model: PreTrainedModel, key: str, axes: Sequence[Axis]) -> list[Group]:
    if any(place_of(axis.parameter) is None for axis in axes):
        return []
    in_layers: dict[tuple[str, int], list[Weight]] = defaultdict(list)
    for axis in axes:
        place, weight = place_of(axis.parameter), _weight(model, axis)
        if place is not None and weight is not None:
            in_layers[place[:2]].append(weight)
    kinds: dict[tuple[tuple[Weight, ...], str], list[int]] = defaultdict(list)
    for (stack, number), weights in in_layers.items():
        for unit in _units(weights):
            local = tuple(replace(w, path=w.path.removeprefix(f"{stack}.{number}.")) for w in unit)
            kinds[local, stack].append(number)
    explained = {name for (unit, stack), numbers in kinds.items() for name in _names(model, unit, stack, numbers)}
    alone = len(kinds) == 1 and explained == {axis.parameter for axis in axes}
    return [Group(unit, stack, tuple(numbers), (key,), alone) for (unit, stack), numbers in kinds.items()]


def _names(model: PreTrainedModel, unit: Sequence[Weight], stack: str, numbers: Sequence[int]) -> list[str]:
    """Return the parameters whose shapes the width of a kind of FFN states."""
    names = []
    for number in numbers:
        for weight in unit:
            path = f"{stack}.{number}.{weight.path}"
            names.append(f"{path}.{weight.name}")
            if weight.out == Space.FFN and getattr(model.get_submodule(path), "bias", None) is not None:
                names.append(f"{path}.bias")
    return names


def _weight(model: PreTrainedModel, axis: Axis) -> Weight | None:
    """Return the matrix that an axis belongs to, with its full path; None for what is none."""
    path, _, name = axis.parameter.rpartition(".")
    module = model.get_submodule(path)
    dims = getattr(module, name).dim()
    layout: Layout = "linear"
    if isinstance(module, Conv1D) and name == "weight":
        layout = "conv1d"
    elif dims == 3 and name != "weight" and axis.index > 0:
        layout = "conv1d" if getattr(module, "is_transposed", False) else "linear"
    elif not (isinstance(module, nn.Linear) and name == "weight"):
        return None
    writes = axis.index == (dims - 2 if layout == "linear" else dims - 1)
    spaces = (Space.RESIDUAL, Space.FFN) if writes else (Space.FFN, Space.RESIDUAL)
    return Weight(path, *spaces, layout=layout, repeats=axis.repeats, name=name)


def _units(weights: Sequence[Weight]) -> list[tuple[Weight, ...]]:
    """Return the FFNs of a layer: each matrix that reads hidden units, behind the nearest ones that write them."""
    producers = [w for w in weights if w.out == Space.FFN]
    units = []
    for consumer in (w for w in weights if w.in_ == Space.FFN and w.repeats == 1):
        nearest = max((_common(p, consumer) for p in producers), default=0)
        own = [p for p in producers if _common(p, consumer) == nearest]
        if own:
            units.append((*own, consumer))
    return units


def _common(one: Weight, other: Weight) -> int:
    """Return how many steps two paths begin with together."""
    pairs = zip(f"{one.path}.{one.name}".split("."), f"{other.path}.{other.name}".split("."), strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), 99)
