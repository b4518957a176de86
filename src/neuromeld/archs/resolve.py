"""Bind an architecture's description to a real model: every parameter is claimed once, or the model is refused."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

from torch import nn
from transformers import PretrainedConfig

from neuromeld.archs.keys import read_key
from neuromeld.archs.spec import ArchSpec, Norm, Space, Stack, Weight
from neuromeld.errors import UnsupportedModelError

T = TypeVar("T")


@dataclass(frozen=True)
class Architecture:
    """A spec bound to one model; all paths here are full module paths, and layers are counted through all stacks.

    `depths` are the numbers of layers of each stack.  `residual_reads` are the norms that read the residual stream, in
    order, the final norm last.  `widths` gives the size of each space, the largest where stacks have widths of their
    own, which are `stack_widths`.  `tied` says whether the output head is the embedding.
    `experts` is the number of experts, 0 where there are none, `active` that of those a token is sent to, `groups` that
    of the groups that they come in.  A stock config wants a residual width that is a multiple of `stock_multiple`.
    Layers run `runs` times; `without_ffn` are those that have none of the FFNs described, `numbers` are those that the
    layers of the only stack have in the model, where some are left out.
    """

    spec: ArchSpec
    depths: tuple[int, ...]
    width: int
    tied: bool
    widths: dict[Space, int]
    experts: int = 0
    active: int = 1
    groups: int = 1
    stock_multiple: int = 1
    runs: int = 1
    without_ffn: tuple[int, ...] = ()
    numbers: tuple[int, ...] = ()
    stack_widths: tuple[dict[Space, int], ...] = ()

    def size(self, space: Space, layer: int) -> int:
        """Return the size of a space in a layer."""
        own = self.stack_widths[self._index(layer)] if self.stack_widths else self.widths
        return own.get(space, self.widths[space])

    @property
    def num_layers(self) -> int:
        return sum(self.depths)

    @property
    def final_norm(self) -> Norm:
        """The last norm of the residual stream, of models whose stream can be narrowed."""
        assert self.spec.final_norm is not None
        return self.spec.final_norm

    @property
    def head(self) -> Weight:
        """The output head, of models whose stream can be narrowed."""
        assert self.spec.head is not None
        return self.spec.head

    @cached_property
    def stack_offsets(self) -> tuple[int, ...]:
        """The first layer of each stack."""
        return tuple(sum(self.depths[:index]) for index in range(len(self.depths)))

    def layers_with(self, space: Space) -> list[int]:
        """Return the layers that have a space of their own: hidden neurons, or heads."""
        return [i for i in range(self.num_layers) if any(weight.in_ == space for weight in self.layer_weights(i))]

    def stack(self, layer: int) -> Stack:
        """Return the stack that a layer is in."""
        return self._place(layer)[0]

    def layer_path(self, layer: int, path: str = "") -> str:
        stack, index = self._place(layer)
        number = self.numbers[index] if self.numbers else index
        return f"{stack.layers}.{number}" + (f".{path}" if path else "")

    @property
    def layer_paths(self) -> list[str]:
        """The paths of all layers, through all stacks."""
        return [self.layer_path(layer) for layer in range(self.num_layers)]

    def mask(self, path: str) -> str | None:
        """Return the entry of a batch that says which of the tokens are real that the module at `path` sees."""
        return next((s.mask for s in self.spec.stacks if path.startswith(f"{s.layers}.")), self.spec.stacks[-1].mask)

    def in_step(self, window: range) -> list[range]:
        """Return the layers of each stack that `window`, counted from 0 in every stack, stands for."""
        return [range(start + window.start, start + window.stop) for start in self.stack_offsets]

    def with_depths(self, depths: tuple[int, ...]) -> "Architecture":
        """Return the architecture with so many layers in each stack."""
        return replace(self, depths=depths)

    def left_in(self, kept: Sequence[int]) -> "Architecture":
        """Return the architecture of some layers of the only stack, by the numbers that they have in the model."""
        bare = tuple(new for new, old in enumerate(kept) if old in self.without_ffn)
        return replace(self, depths=(len(kept),), without_ffn=bare, numbers=tuple(kept))

    def without(self, count: int) -> "Architecture":
        """Return the architecture with `count` layers less in every stack."""
        return self.with_depths(tuple(depth - count for depth in self.depths))

    def layer_weights(self, layer: int) -> tuple[Weight, ...]:
        """Return the weights of one layer, with full paths."""
        return self._weights_by_layer[layer]

    @cached_property
    def _weights_by_layer(self) -> list[tuple[Weight, ...]]:
        return [tuple(self._named_weights(layer)) for layer in range(self.num_layers)]

    def _named_weights(self, layer: int) -> Iterator[Weight]:
        for weight in self.stack(layer).weights:
            if layer in self.without_ffn and Space.FFN in (weight.in_, weight.out):
                continue
            norm = weight.input_norm and self.layer_path(layer, weight.input_norm)
            yield replace(weight, path=self.layer_path(layer, weight.path), input_norm=norm)

    def producers(self, layer: int, space: Space) -> tuple[Weight, ...]:
        """Return the weights of one layer that write into `space`, with full paths."""
        return tuple(weight for weight in self.layer_weights(layer) if weight.out == space)

    def consumer(self, layer: int, space: Space) -> Weight:
        """Return the one weight of a layer that reads `space`, a space of its own: `ffn` or `heads`."""
        (weight,) = (weight for weight in self.layer_weights(layer) if weight.in_ == space)
        return weight

    def attention_path(self, layer: int) -> str | None:
        """Return the path, from the layer on, of the largest module that has attention and nothing of the FFN; None
        where attention is not described.
        """
        weights = self.stack(layer).weights
        described = next((weight.path for weight in weights if weight.in_ == Space.HEADS), None)
        if described is None:
            return None
        output = described.split(".")
        ffn = [f"{weight.path}." for weight in weights if Space.FFN in (weight.in_, weight.out)]
        paths = (".".join(output[:length]) for length in range(1, len(output) + 1))
        return next(path for path in paths if not any(other.startswith(f"{path}.") for other in ffn))

    def residual_norms(self, layer: int) -> tuple[Norm, ...]:
        """Return the norms of one layer that read the residual stream, with full paths."""
        return tuple(replace(norm, path=self.layer_path(layer, norm.path)) for norm in self.spec.residual_norms)

    def layer_norms(self, layer: int) -> tuple[Norm, ...]:
        """Return every norm of one layer, with full paths."""
        return tuple(replace(norm, path=self.layer_path(layer, norm.path)) for norm in self.stack(layer).norms)

    def layer_untouched_parameters(self, layer: int) -> tuple[str, ...]:
        """Return the full paths of the parameters of one layer that no method touches."""
        stack, index = self._place(layer)
        first = stack.first_only if index == 0 else None
        paths = (
            (*stack.untouched_parameters, f"{first.owner}.{first.embedding}.weight")
            if first
            else stack.untouched_parameters
        )
        return tuple(self.layer_path(layer, path) for path in paths)

    @property
    def weights(self) -> tuple[Weight, ...]:
        """Every weight of the model, the head included even when it is the embedding."""
        layers = (w for layer in range(self.num_layers) for w in self.layer_weights(layer))
        return (*self.spec.embeddings, *layers, *_given(self.spec.head))

    @property
    def residual_reads(self) -> tuple[Norm, ...]:
        layers = (norm for layer in range(self.num_layers) for norm in self.residual_norms(layer))
        return (*layers, *_given(self.spec.final_norm))

    @property
    def norms(self) -> tuple[Norm, ...]:
        """Every norm, those that do not read the residual stream included."""
        layers = (norm for layer in range(self.num_layers) for norm in self.layer_norms(layer))
        return (*_given(self.spec.embedding_norm), *layers, *_given(self.spec.final_norm))

    def untouched_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """Return the parameters of `model` that no method touches, where it has them and they are not tied to
        others.
        """
        paths = [
            *self.spec.untouched_parameters,
            *(path for layer in range(self.num_layers) for path in self.layer_untouched_parameters(layer)),
        ]
        found = [parameter for path in paths if (parameter := _find_parameter(model, path)) is not None]
        if not found:
            return []
        modules = (find_module(model, weight.path) for weight in self.weights)
        described = {id(p) for module in modules if module is not None for p in module.parameters(recurse=False)}
        return [parameter for parameter in found if id(parameter) not in described]

    def tensors_of_experts(self) -> Iterator[str]:
        """Yield the full paths of what there is one of for each expert, of layers that may have none, too."""
        for layer in range(self.num_layers):
            mixture = self.stack(layer).mixture
            yield from (self.layer_path(layer, name) for name, _ in (mixture.tensors if mixture else ()))

    def untouched_matrix_entries(self, model: nn.Module) -> int:
        """Return the number of entries of the linear maps among the untouched parameters."""
        found = self.untouched_parameters(model)
        weights = {id(module.weight) for module in model.modules() if found and isinstance(module, nn.Linear)}
        return sum(parameter.numel() for parameter in found if id(parameter) in weights)

    def _place(self, layer: int) -> tuple[Stack, int]:
        index = self._index(layer)
        return self.spec.stacks[index], layer - self.stack_offsets[index]

    def _index(self, layer: int) -> int:
        return max(i for i, start in enumerate(self.stack_offsets) if start <= layer)


def resolve(model: nn.Module, spec: ArchSpec) -> Architecture:
    """Check `spec` against `model` and size its spaces.  The model may lie on the meta device.

    Raises `UnsupportedModelError` listing every difference: config values the spec does not cover, weights that
    are missing, parameters that nothing claims, axes of one space that disagree.
    """
    spec = next((variant for variant in spec.variants if not _unmet(variant, model.config)), spec)
    problems = _unmet(spec, model.config)
    if problems:
        raise UnsupportedModelError(f"this {spec.model_type} model is not covered: " + "; ".join(problems))

    depths = _depths(model, spec)
    unbound = _without_ffn(model, Architecture(spec, depths, width=0, tied=False, widths={}))
    sizes, claims = _claim_all(model, unbound, problems)
    problems += [
        f"space {str(space)!r} has several sizes: " + ", ".join(f"{size} ({path})" for size, path in found.items())
        for (_, space), found in sizes.items()
        if len(found) > 1
    ]
    problems += [f"space {space!r} has size 0 ({found[0]})" for (_, space), found in sizes.items() if 0 in found]
    unclaimed = [name for name, parameter in model.named_parameters() if id(parameter) not in claims]
    if unclaimed:
        shown = ", ".join(unclaimed[:8]) + (f" and {len(unclaimed) - 8} more" if len(unclaimed) > 8 else "")
        problems.append(f"{len(unclaimed)} unclaimed tensors: {shown}")
    if problems:
        raise UnsupportedModelError(
            f"{type(model).__name__} does not fit the architecture {spec.model_type!r}: " + "; ".join(problems)
        )
    by_stack: dict[int, dict[Space, int]] = defaultdict(dict)
    for (stack, space), found in sizes.items():
        by_stack[stack][space] = next(iter(found))
    widths = {space: max(own.get(space, 0) for own in by_stack.values()) for _, space in sizes}
    own_widths = tuple(by_stack[stack] for stack in range(len(depths))) if spec.staged else ()
    tied = False
    if spec.head is not None:
        head, tables = model.get_submodule(spec.head.path), [w.path for w in spec.embeddings if w.in_ == spec.head.out]
        tied = any(head.weight is model.get_submodule(path).weight for path in tables)
    keys = (spec.stock_multiple, spec.stacks[0].runs_key)
    multiple, runs = (getattr(model.config, key) if key else 1 for key in keys)
    return Architecture(
        spec,
        depths,
        widths[Space.RESIDUAL],
        tied,
        widths,
        *_experts(spec, model.config, widths),
        stock_multiple=multiple,
        runs=runs,
        without_ffn=unbound.without_ffn,
        stack_widths=own_widths,
    )


def _experts(spec: ArchSpec, config: PretrainedConfig, widths: Mapping[Space, int]) -> tuple[int, int, int]:
    """Return the numbers of experts, of those that a token is sent to, and of groups of them."""
    mixture = spec.mixture
    if mixture is None:
        return widths.get(Space.EXPERTS, 0), getattr(config, "num_experts_per_tok", 1), 1
    groups = read_key(config, mixture.groups_key) if mixture.groups_key else 1
    return read_key(config, mixture.key), read_key(config, mixture.active_key), groups or 1


def _without_ffn(model: nn.Module, arch: Architecture) -> Architecture:
    """Return the architecture with the layers named that have none of the FFNs described, where there may be some."""
    found = [
        layer
        for layer in range(arch.num_layers)
        if arch.stack(layer).ffn_in_some
        and not hasattr(find_module(model, (consumer := arch.consumer(layer, Space.FFN)).path), consumer.name)
    ]
    return replace(arch, without_ffn=tuple(found))


def _depths(model: nn.Module, spec: ArchSpec) -> tuple[int, ...]:
    """Return the number of layers of each stack; `UnsupportedModelError` where there is no stack, or no layer."""
    lists = [find_module(model, stack.layers) for stack in spec.stacks]
    missing = [stack.layers for stack, layers in zip(spec.stacks, lists, strict=True) if layers is None]
    if missing:
        raise UnsupportedModelError(f"{type(model).__name__} does not fit {spec.model_type!r}: no {', '.join(missing)}")
    depths = tuple(len(layers) for layers in lists)  # type: ignore[arg-type]
    if not all(depths):
        raise UnsupportedModelError(f"this {spec.model_type} model has no layers: there is nothing to make smaller")
    return depths


def _claim_all(
    model: nn.Module, unbound: Architecture, problems: list[str]
) -> tuple[dict[tuple[int, Space], dict[int, str]], dict[int, str]]:
    """Return the sizes that were found of every space, by stack where stacks have their own, each with a path, and the
    name of each claimed parameter.
    """
    claims: dict[int, str] = {}
    sizes: dict[tuple[int, Space], dict[int, str]] = defaultdict(dict)
    for weight in unbound.weights:
        module = find_module(model, weight.path)
        matrix = getattr(module, weight.name, None)
        if matrix is None:
            problems.append(f"{weight.path}.{weight.name} is missing")
            continue
        size_in, size_out = matrix_shape(matrix, weight)
        stack = _stack_of(unbound.spec, weight.path)
        if weight.stacked:
            sizes[stack, Space.EXPERTS][matrix.shape[0]] = weight.path
        sizes[stack, weight.in_][size_in] = weight.path
        sizes[stack, weight.out][size_out // weight.repeats] = weight.path
        if weight != unbound.spec.head or id(matrix) not in claims:
            _claim(claims, matrix, f"{weight.path}.{weight.name}", problems)
        bias = getattr(module, weight.bias, None)
        if bias is not None:
            _claim(claims, bias, f"{weight.path}.{weight.bias}", problems)
    for norm in unbound.norms:
        module = find_module(model, norm.path)
        if getattr(module, "weight", None) is None:
            problems.append(f"{norm.path}.weight is missing")
            continue
        sizes[_stack_of(unbound.spec, norm.path), norm.over][module.weight.shape[0]] = norm.path
        for name, parameter in module.named_parameters(recurse=False):
            _claim(claims, parameter, f"{norm.path}.{name}", problems)
    for parameter in unbound.untouched_parameters(model):
        _claim(claims, parameter, "a parameter that no method touches", problems)
    return sizes, claims


def _stack_of(spec: ArchSpec, path: str) -> int:
    """Return the stack whose widths a module has, where stacks have widths of their own."""
    if not spec.staged:
        return 0
    return next(i for i, stack in enumerate(spec.stacks) if path.startswith(f"{stack.layers}."))


def matrix_shape(matrix: nn.Parameter, weight: Weight) -> tuple[int, int]:
    """Return how many inputs and outputs a stored matrix has."""
    if weight.layout == "conv":
        return matrix[0].numel(), len(matrix)
    size_in, size_out = matrix.shape[:-3:-1] if weight.layout == "linear" else matrix.shape[-2:]
    return size_in, size_out


def _unmet(spec: ArchSpec, config: PretrainedConfig) -> list[str]:
    """Return the config values that `spec` does not cover, and what is the matter with each."""
    problems = [
        f"config.{r.key}={getattr(config, r.key)!r}: {r.reason}"
        for r in spec.requires
        if getattr(config, r.key, r.value) != r.value
    ]
    if spec.head_keys is not None:
        heads, groups = (getattr(config, key, None) for key in spec.head_keys)
        if heads and groups and (heads < groups or heads % groups):
            problems.append(f"{heads} query heads cannot share {groups} key-value heads ({', '.join(spec.head_keys)})")
    return problems


def find_module(model: nn.Module, path: str) -> nn.Module | None:
    """Return the submodule at `path`, or None where the path does not exist."""
    module: nn.Module | None = model
    for part in path.split("."):
        module = getattr(module, part, None)
        if module is None:
            return None
    return module


def has_bias(model: nn.Module, weight: Weight) -> bool:
    """Tell whether the module of a weight has a bias."""
    return getattr(find_module(model, weight.path), weight.bias, None) is not None


def _find_parameter(model: nn.Module, path: str) -> nn.Parameter | None:
    module, _, name = path.rpartition(".")
    owner = find_module(model, module) if module else model
    found = getattr(owner, name, None)
    return found if isinstance(found, nn.Parameter) else None


def _given(value: T | None) -> tuple[T, ...]:
    return () if value is None else (value,)


def _claim(claims: dict[int, str], parameter: nn.Parameter, name: str, problems: list[str]) -> None:
    if id(parameter) in claims:
        problems.append(f"{name} is the same tensor as {claims[id(parameter)]}")
    claims[id(parameter)] = name
