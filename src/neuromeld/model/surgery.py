"""Read and write the weights of a live model.  The only module that mutates one.

Matrices come and go as `(in, out)`, whatever the module stores; embeddings are `(vocab, d)`, which is the same thing.
Those of experts, one on top of the other, come and go together.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.backbone_utils import BackboneConfigMixin
from transformers.pytorch_utils import Conv1D

from neuromeld.archs.keys import in_list, read_key, write_key
from neuromeld.archs.spec import Mixture, Stack, Weight
from neuromeld.errors import NumericsError
from neuromeld.runtime.memory import all_finite
from neuromeld.runtime.streaming import at_home, home_device, used


def read_matrix(model: nn.Module, weight: Weight) -> Tensor:
    """Return the matrix as `(in, out)`, in its own dtype; a view where that is possible.

    Of experts, `(experts, in, out)`.
    """
    matrix = used(getattr(model.get_submodule(weight.path), weight.name)).detach()
    if weight.layout == "conv":
        return matrix.flatten(1).mT
    return matrix.mT if weight.layout == "linear" else matrix


def write_matrix(model: nn.Module, weight: Weight, matrix: Tensor) -> None:
    """Store `matrix`, `(in, out)` in any float dtype, in the module's own dtype and layout; the shape may change."""
    module = model.get_submodule(weight.path)
    stored = matrix if weight.layout in ("conv1d", "embedding") else matrix.mT
    if weight.layout == "conv":
        stored = stored.unflatten(1, (-1, *getattr(module, weight.name).shape[2:]))
    _replace(module, weight.name, stored, f"{weight.path}.{weight.name}")
    _set_sizes(module)


def read_bias(model: nn.Module, weight: Weight) -> Tensor | None:
    """Return the bias, `(out,)`, or None.  Of experts, `(experts, out)`."""
    bias: nn.Parameter | None = getattr(model.get_submodule(weight.path), weight.bias, None)
    return None if bias is None else used(bias).detach()


def write_bias(model: nn.Module, weight: Weight, bias: Tensor) -> None:
    """Store a bias, `(out,)`, in the module's own dtype."""
    _replace(model.get_submodule(weight.path), weight.bias, bias, f"{weight.path}.{weight.bias}")


def mix_outputs(model: nn.Module, weight: Weight, mix: Tensor) -> None:
    """Keep some outputs of a matrix and of its bias, by index `(m,)`, or average them, by a matrix `(out, m)`."""
    matrix, bias = read_matrix(model, weight), read_bias(model, weight)
    write_matrix(model, weight, mixed_outputs(weight, matrix, mix))
    if bias is not None:
        write_bias(model, weight, mixed_outputs(weight, bias, mix))


def mixed_outputs(weight: Weight, x: Tensor, mix: Tensor) -> Tensor:
    """Return a matrix or bias of `weight` whose outputs, the last axis, are kept or averaged as `mix_outputs` does."""
    repeats, units = weight.repeats, x.shape[-1] // weight.repeats
    parts: Tensor = x.unflatten(-1, (units, repeats)).mT if weight.interleaved else x.unflatten(-1, (repeats, units))
    mixed: Tensor = parts[..., mix] if mix.dtype == torch.int64 else parts.to(mix) @ mix
    return (mixed.mT if weight.interleaved else mixed).flatten(-2)


def read_norm(model: nn.Module, path: str) -> tuple[Tensor, Tensor | None]:
    """Return gain and bias (None where the norm has none), each `(d,)`."""
    module = model.get_submodule(path)
    bias: nn.Parameter | None = getattr(module, "bias", None)
    return used(module.weight).detach(), None if bias is None else used(bias).detach()


def write_norm(model: nn.Module, path: str, gain: Tensor, bias: Tensor | None) -> None:
    """Store gain and bias; the width may change."""
    module = model.get_submodule(path)
    _replace(module, "weight", gain, f"{path}.weight")
    if bias is not None:
        _replace(module, "bias", bias, f"{path}.bias")
    _set_sizes(module)


def tie(model: nn.Module, path: str, to: str) -> None:
    """Make the weight at `path` the very parameter at `to`."""
    module, source = model.get_submodule(path), model.get_submodule(to)
    module.weight = source.weight
    _set_sizes(module)


def share(model: nn.Module, paths: Sequence[str]) -> None:
    """Make weight and bias of the modules at `paths`, all of one shape, the very parameters of the first."""
    first, *others = (model.get_submodule(path) for path in paths)
    for module in others:
        module.weight, module.bias = first.weight, first.bias


def keep_layers(model: nn.Module, stack: Stack, kept: Sequence[int], layer_lists: Sequence[str]) -> None:
    """Leave only some of the layers of a stack, and make the config and the layers' own indices follow.

    layer_lists  the config keys, where they are set, of lists with an entry for every layer; those beside the number
                 of layers of this stack are its own
    """
    layers = model.get_submodule(stack.layers)
    if stack.first_only is not None and kept[0] != 0:
        old, new = (layers[index].get_submodule(stack.first_only.owner) for index in (0, kept[0]))
        new.add_module(stack.first_only.embedding, old.get_submodule(stack.first_only.embedding))
        setattr(new, stack.first_only.flag, True)
    _put(model, stack.layers, nn.ModuleList(layers[index] for index in kept))
    for new, index in enumerate(kept):
        for module in layers[index].modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = new
    for key in layer_lists:
        entries = read_key(model.config, key)
        if entries is not None and key.rpartition(".")[0] == stack.count_key.rpartition(".")[0]:
            write_key(model.config, key, [entries[index] for index in kept])
    write_key(model.config, stack.count_key, len(kept))
    if in_list(stack.count_key):  # of one of several stages, all of which stay
        return
    if isinstance(model.config, BackboneConfigMixin):
        model.config.stage_names = ["stem", *(f"stage{number}" for number in range(1, len(kept) + 1))]
        model.config.set_output_features_output_indices(out_features=None, out_indices=None)


def keep_experts(layer: nn.Module, mixture: Mixture, kept: Tensor, total: int) -> None:
    """Keep some of the `total` experts of a layer, by index, and the numbers that its modules carry of them.

    What has other than `total` entries stays as it is.
    """
    for name, axis in mixture.tensors:
        path, _, leaf = name.rpartition(".")
        module = layer.get_submodule(path)
        old: Tensor = getattr(module, leaf)
        if old.shape[axis] != total:
            continue
        part = old.detach().index_select(axis, kept.to(old.device))
        if leaf in module._buffers:
            module._buffers[leaf] = part
        else:
            module._parameters[leaf] = nn.Parameter(part, requires_grad=old.requires_grad)
        _set_sizes(module)
    for path, count in mixture.counts:
        setattr(layer.get_submodule(path), count, len(kept))


def write_num_experts(model: nn.Module, mixture: Mixture, number: int) -> None:
    """Make the config, and what is outside of layers, say how many experts there are in a layer."""
    write_key(model.config, mixture.key, number)
    for path, count in mixture.counts_of_model:
        setattr(model.get_submodule(path), count, number)


class Snapshot:
    """References to all that is replaced in a model when it is treated: parameters, layers, sizes, hooks, config.

    Parameters are replaced and never written into, so nothing is copied.
    """

    def __init__(self, model: nn.Module) -> None:
        parts = [model.config, *(getattr(model.config, name, None) for name in model.config.sub_configs)]
        self._settings = [(part, dict(vars(part))) for part in parts if part is not None]
        self._model, self._generation = model, getattr(model, "generation_config", None)
        self._modules = [(module, _replaceable(module)) for module in model.modules()]

    def restore(self) -> None:
        """Put the model back as it was, whatever was done to it since."""
        if self._generation is not None:
            self._model.generation_config = self._generation
        for module, (sizes, *held) in self._modules:
            for mapping, old in zip(_held(module), held, strict=True):
                mapping.clear()
                mapping.update(old)
            vars(module).update(sizes)
        for part, settings in self._settings:
            vars(part).clear()
            vars(part).update(settings)

    def changed(self) -> set[nn.Module]:
        """Return the modules that are no longer as they were, by themselves."""
        return {module for module, old in self._modules if not _same(_replaceable(module), old)}


@contextmanager
def reversible(model: nn.Module) -> Iterator[None]:
    """Undo on leaving what was done inside: parameters, layers, sizes, hooks and config are as before."""
    before = Snapshot(model)
    try:
        yield
    finally:
        before.restore()


def own_parameters(model: nn.Module) -> None:
    """Replace every parameter by a copy, so that what is written into it is undone with all that was replaced.

    What is one parameter stays one.
    """
    copies: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, old in module._parameters.items():
            if old is not None and id(old) not in copies:
                copies[id(old)] = nn.Parameter(old.detach().clone(), requires_grad=old.requires_grad)
            module._parameters[name] = None if old is None else copies[id(old)]


def copy_structure(module: nn.Module) -> nn.Module:
    """Return a copy whose parameters and buffers are the very ones of `module`, until they are replaced."""
    tensors = (*module.parameters(), *module.buffers())
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})


def shared_parameters(module: nn.Module, prefix: str) -> list[list[str]]:
    """Return the names of parameters that are one and the same, in groups of at least two; `prefix` goes before each
    name.
    """
    groups: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(f"{prefix}.{name}")
    return [names for names in groups.values() if len(names) > 1]


def add_linear(model: nn.Module, path: str, matrix: Tensor, like: Tensor, bias: Tensor | None = None) -> None:
    """Attach a linear layer `(in, out)` at `path`, in the dtype and on the device of `like`."""
    module = nn.Linear(*matrix.shape, bias=bias is not None, dtype=like.dtype, device="meta")
    for name, value in (("weight", matrix.T), ("bias", bias)):
        if value is not None:
            empty = torch.empty(0, dtype=like.dtype, device=like.device)
            setattr(module, name, nn.Parameter(empty, requires_grad=like.requires_grad))
            _replace(module, name, value, f"{path}.{name}")
    _put(model, path, module)


def add_gain(model: nn.Module, path: str, gain: Tensor) -> None:
    """Give the module at `path` a factor for each of its outputs, `(out,)`, as a parameter `gain`."""
    module = model.get_submodule(path)
    weight: nn.Parameter = module.weight
    module.gain = nn.Parameter(torch.empty_like(weight[:0, 0]), requires_grad=weight.requires_grad)
    _replace(module, "gain", gain, f"{path}.gain")


def add_low_rank(model: nn.Module, path: str, down: Tensor, up: Tensor) -> None:
    """Attach two bias-free linear layers, `(in, rank)` and `(rank, out)`, to the module at `path`: `down` and `up`."""
    like = model.get_submodule(path).weight
    add_linear(model, f"{path}.down", down, like=like)
    add_linear(model, f"{path}.up", up, like=like)


def scale_rows(model: nn.Module, path: str, scale: Tensor, shift: Tensor) -> None:
    """Give the embedding at `path` a scale a row, `(vocab, 1)`, and a shift, `(k,)`, as parameters."""
    module = model.get_submodule(path)
    weight: nn.Parameter = module.weight
    for name, value in (("scale", scale), ("shift", shift)):
        setattr(module, name, nn.Parameter(torch.empty_like(weight[:0, 0]), requires_grad=weight.requires_grad))
        _replace(module, name, value, f"{path}.{name}")


def keep_rows(model: nn.Module, names: Iterable[str], rows: Tensor) -> None:
    """Keep some entries, by index, of parameters and buffers with one for each token, wherever they are shared.

    names   of some that have them on their first axis, or, where that is of length 1, on their last

    Sizes that modules carry follow.
    """
    held = [
        (mapping, name, value, module, f"{path}.{name}".removeprefix("."))
        for path, module in model.named_modules()
        for mapping in (module._parameters, module._buffers)
        for name, value in mapping.items()
        if value is not None
    ]
    wanted = set(names)
    for tensor in {id(value): value for *_, value, _, name in held if name in wanted}.values():
        tensor = at_home(tensor) if isinstance(tensor, nn.Parameter) else tensor
        part = tensor[:, rows] if tensor.dim() > 1 and tensor.shape[0] == 1 else tensor[rows]
        new = part.detach().contiguous()
        new = nn.Parameter(new, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new
        for mapping, name, value, module, _ in held:
            if value is tensor:
                mapping[name] = new
                _set_sizes(module)


def renumber_padding(model: nn.Module, new_id: Mapping[int, int]) -> None:
    """Renumber the padding tokens that modules carry."""
    for module in model.modules():
        if isinstance(old := getattr(module, "padding_idx", None), int) and old in new_id:
            module.padding_idx = new_id[old]


def changed_parameters(module: nn.Module, before: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the parameters by name that are others than in `before`: those that were replaced, and new ones."""
    return {name: value for name, value in module.named_parameters() if value is not before.get(name)}


def load_parameters(module: nn.Module, parameters: Mapping[str, Tensor]) -> None:
    """Put parameters, by name, in the place of those that are there; shapes may change."""
    for name, value in parameters.items():
        path, _, leaf = name.rpartition(".")
        owner = module.get_submodule(path)
        _replace(owner, leaf, value, name)
        if leaf == "weight":
            _set_sizes(owner)


def move_parameters(module: nn.Module, names: Iterable[str], move: Callable[[Tensor], Tensor]) -> None:
    """Let parameters lie where `move` puts their values; they stay the same parameters, so ties stay."""
    for name in names:
        parameter = at_home(module.get_parameter(name))
        parameter.data = move(parameter.data)


def remove_module(model: nn.Module, path: str) -> None:
    """Put an identity in the place of the module at `path`."""
    _put(model, path, nn.Identity())


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)  # also where None is in its place


def _replace(module: nn.Module, name: str, value: Tensor, label: str) -> None:
    old: nn.Parameter = getattr(module, name)
    new = value.to(dtype=old.dtype, device=home_device(old)).contiguous()
    if not all_finite(new):
        raise NumericsError(f"{label} would not be finite in {old.dtype}; try a wider --dtype or a larger ratio")
    setattr(module, name, nn.Parameter(new, requires_grad=old.requires_grad))


def _set_sizes(module: nn.Module) -> None:
    """Keep the sizes that linear, embedding, convolution, norm and router modules carry in step with their weights."""
    if not hasattr(module, "weight"):
        return
    shape = module.weight.shape
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = shape
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = shape
    elif isinstance(module, Conv1D):
        module.nx, module.nf = shape
    elif isinstance(module, nn.Conv2d):
        module.out_channels, module.in_channels = shape[0], shape[1]
        if module.groups > 1:
            module.groups = module.in_channels = shape[0]
    elif hasattr(module, "top_k"):  # a router of experts
        module.hidden_dim = shape[1]
    elif hasattr(module, "normalized_shape"):
        module.normalized_shape = tuple(shape)


def _held(module: nn.Module) -> list[dict[str, Any]]:
    """Return what a module holds in dictionaries: parameters, children, buffers, and hooks of every kind."""
    hooks = [value for name, value in sorted(vars(module).items()) if "_hooks" in name and isinstance(value, dict)]
    return [module._parameters, module._modules, module._buffers, *hooks]


def _replaceable(module: nn.Module) -> list[dict[str, Any]]:
    """Return copies of the sizes that a module carries, of what it could have and has not, and of what it holds."""
    sizes = {name: value for name, value in vars(module).items() if value is None or isinstance(value, int | tuple)}
    return [sizes, *(dict(mapping) for mapping in _held(module))]


def _same(new: list[dict[str, Any]], old: list[dict[str, Any]]) -> bool:
    sizes = new[0] == old[0]
    return sizes and all(
        now.keys() == before.keys() and all(now[key] is before[key] for key in now)
        for now, before in zip(new[1:], old[1:], strict=True)
    )
