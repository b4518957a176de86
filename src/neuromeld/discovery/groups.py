"""Find the FFNs of a model among the axes that its config keys state."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from neuromeld.archs.spec import Layout, Space, Weight
from neuromeld.discovery.axes import Axis, axes_by_key, embedding_of, shapes_of


@dataclass(frozen=True)
class FFNs:
    """Hold the FFNs of one list of layers.

    weights  of one of them: what writes its hidden units, and then what reads them; paths start at the layer
    stack    path of the list of their layers
    layers   that have one
    """

    weights: tuple[Weight, ...]
    stack: str
    layers: tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """FFNs of one kind; `parts` are those of each list of layers, of an encoder and its decoder two.

    keys    config keys that state their width
    alone   nothing else has that width
    staged  each part has a stream and FFNs of widths of its own
    """

    parts: tuple[FFNs, ...]
    keys: tuple[str, ...] = ()
    alone: bool = False
    staged: bool = False

    @property
    def names(self) -> str:
        """The paths of their weights, from the layer on."""
        return " and ".join(dict.fromkeys(weight.path for part in self.parts for weight in part.weights))


def groups_of(model: PreTrainedModel) -> list[Group]:
    """Return the kinds of FFNs of a small model, on any device; the ones with most parameters first.

    A config key that states an axis outside of layers, such as the width of the stream, states no FFN where another
    does.
    """
    by_key = [*axes_by_key(type(model), model.config, shapes_of(model))]
    inside = [(key, axes) for key, axes in by_key if all(place_of(axis.parameter) for axis in axes)]
    groups = _by_keys(model, inside) or _by_keys(model, by_key) or [Group((part,)) for part in _without_key(model)]
    if model.config.is_encoder_decoder:
        order = [path for path, _ in model.named_modules()]
        groups.sort(key=lambda group: order.index(group.parts[0].stack))
        groups += [_joined(one, other) for one, other in combinations(groups, 2) if _beside(one, other)]
    return sorted(groups, key=lambda group: -_parameters(model, group))


def _by_keys(model: PreTrainedModel, by_key: Iterable[tuple[str, Sequence[Axis]]]) -> list[Group]:
    found: dict[tuple[FFNs, ...], Group] = {}
    for key, axes in by_key:
        for group in _grouped(model, key, axes):
            if group.parts not in found or (group.alone and not found[group.parts].alone):
                found[group.parts] = group
    return [*found.values()]


def _beside(one: Group, other: Group) -> bool:
    """Tell whether two kinds may be those of an encoder and of its decoder."""
    return len(one.parts) == len(other.parts) == 1 and one.parts[0].stack != other.parts[0].stack


def _joined(one: Group, other: Group) -> Group:
    keys = tuple(dict.fromkeys((*one.keys, *other.keys)))
    return Group((*one.parts, *other.parts), keys, one.alone and other.alone)


def staged_groups_of(model: PreTrainedModel) -> list[Group]:
    """Return the kinds of FFNs of a small model whose layers are in stages, each a list in an element of a list, with
    streams of several widths.
    """
    matrices = [*_matrices(model, nested=1)]
    widths = {stack: _stage_width(matrices, stack) for stack in {found.stack for found in matrices}}
    parts: dict[tuple[Weight, ...], list[FFNs]] = defaultdict(list)
    for part in _by_shapes(matrices, widths):
        parts[part.weights].append(part)
    order = [path for path, _ in model.named_modules()]
    groups = [
        Group(tuple(sorted(found, key=lambda part: order.index(part.stack))), staged=True) for found in parts.values()
    ]
    return sorted(groups, key=lambda group: -_parameters(model, group))


def _stage_width(matrices: Iterable["_Matrix"], stack: str) -> int:
    """Return the width that most matrices of a stage write; of several the least."""
    written = Counter(found.size_out for found in matrices if found.stack == stack and not found.filters)
    return min(written, key=lambda size: (-written[size], size), default=0)


def _without_key(model: PreTrainedModel) -> list[FFNs]:
    """Return FFNs by their shapes alone: matrices from the stream to another width, and from there back to the stream.

    For models whose config states no width for them, such as one that is always four times that of the stream.
    """
    width = _stream_width(model)
    matrices = [*_matrices(model)]
    return _by_shapes(matrices, dict.fromkeys((found.stack for found in matrices), width))


@dataclass(frozen=True)
class _Matrix:
    """A matrix of a layer, by its full path; `filters` keep the channels apart."""

    stack: str
    number: int
    path: str
    size_in: int
    size_out: int
    layout: Layout
    filters: bool = False


def _matrices(model: PreTrainedModel, nested: int = 0) -> Iterator[_Matrix]:
    """Yield the linear maps of layers: matrices, convolutions at single points, and filters of each channel."""
    for path, module in model.named_modules():
        place = place_of(path, nested)
        if place is None:
            continue
        if isinstance(module, nn.Linear):
            yield _Matrix(*place[:2], path, module.in_features, module.out_features, "linear")
        elif isinstance(module, Conv1D):
            yield _Matrix(*place[:2], path, module.nx, module.nf, "conv1d")
        elif isinstance(module, nn.Conv2d):
            channels = module.in_channels, module.out_channels
            filters = module.groups == channels[0] == channels[1] > 1
            if filters or (module.groups == 1 and module.weight[0, 0].numel() == 1):
                yield _Matrix(*place[:2], path, *channels, "conv", filters)


def _by_shapes(matrices: Iterable[_Matrix], widths: Mapping[str, int | None]) -> list[FFNs]:
    """Return FFNs by their shapes and by the width of the stream in each list of layers."""
    in_layers: dict[tuple[str, int, int], list[Weight]] = defaultdict(list)
    for found in matrices:
        width = widths[found.stack]
        if found.filters and found.size_out != width:
            sides, size = (Space.TAPS, Space.FFN), found.size_out
        elif not found.filters and found.size_in == width != found.size_out:
            sides, size = (Space.RESIDUAL, Space.FFN), found.size_out
        elif not found.filters and found.size_out == width != found.size_in:
            sides, size = (Space.FFN, Space.RESIDUAL), found.size_in
        else:
            continue
        in_layers[found.stack, found.number, size].append(Weight(found.path, *sides, layout=found.layout))
    return _kinds((stack, number, weights) for (stack, number, _), weights in in_layers.items())


def _stream_width(model: PreTrainedModel) -> int | None:
    """Return the width of the stream: that of the embedding, or what most matrices of layers write."""
    width: int | None = getattr(embedding_of(model), "embedding_dim", None)
    if width is not None:
        return width
    in_layers = [module for path, module in model.named_modules() if place_of(path) is not None]
    written = Counter(module.out_features for module in in_layers if isinstance(module, nn.Linear))
    return written.most_common(1)[0][0] if written else None


def _kinds(in_layers: Iterable[tuple[str, int, Sequence[Weight]]]) -> list[FFNs]:
    """Return the FFNs among weights of layers with one size of hidden units: by list of layers, number and weights."""
    kinds: dict[tuple[tuple[Weight, ...], str], list[int]] = defaultdict(list)
    for stack, number, weights in in_layers:
        for unit in _units(weights):
            local = tuple(replace(w, path=w.path.removeprefix(f"{stack}.{number}.")) for w in unit)
            kinds[local, stack].append(number)
    return [FFNs(unit, stack, tuple(numbers)) for (unit, stack), numbers in kinds.items()]


def place_of(path: str, nested: int = 0) -> tuple[str, int, str] | None:
    """Return list, number and the path from the layer on, of what is in a list of layers; None of anything else.

    nested   of how many lists that list of layers is in elements
    """
    parts = path.split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdigit()]
    if len(numbers) <= nested:
        return None
    at = numbers[nested]
    return ".".join(parts[:at]), int(parts[at]), ".".join(parts[at + 1 :])


def _parameters(model: PreTrainedModel, group: Group) -> int:
    total = 0
    for part in group.parts:
        path = f"{part.stack}.{part.layers[0]}"
        matrices = (getattr(model.get_submodule(f"{path}.{w.path}"), w.name) for w in part.weights)
        total += len(part.layers) * sum(int(matrix.numel()) for matrix in matrices)
    return total


def _grouped(model: PreTrainedModel, key: str, axes: Sequence[Axis]) -> list[Group]:
    in_layers: dict[tuple[str, int], list[Weight]] = defaultdict(list)
    for axis in axes:
        place, weight = place_of(axis.parameter), _weight(model, axis)
        if place is not None and weight is not None:
            in_layers[place[:2]].append(weight)
    kinds = _kinds((*place, weights) for place, weights in in_layers.items())
    explained = {name for part in kinds for name in _names(model, part)} == {axis.parameter for axis in axes}
    groups = [Group((part,), (key,), explained and len(kinds) == 1) for part in kinds]
    if len(kinds) == 2 and len({part.stack for part in kinds}) == 2:
        groups.append(Group(tuple(kinds), (key,), explained))
    return groups


def _names(model: PreTrainedModel, part: FFNs) -> list[str]:
    """Return the parameters whose shapes the width of FFNs states."""
    names = []
    for number in part.layers:
        for weight in part.weights:
            path = f"{part.stack}.{number}.{weight.path}"
            names.append(f"{path}.{weight.name}")
            if weight.out == Space.FFN and getattr(model.get_submodule(path), weight.bias, None) is not None:
                names.append(f"{path}.{weight.bias}")
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
    interleaved = axis.repeats > 1 and not getattr(module, "is_concatenated", True)
    return Weight(path, *spaces, layout=layout, repeats=axis.repeats, name=name, interleaved=interleaved)


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
