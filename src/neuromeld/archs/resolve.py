"""Bind an architecture's description to a real model: every parameter is claimed once, or the model is refused."""

from collections import defaultdict
from dataclasses import dataclass, replace

from torch import nn

from neuromeld.archs.spec import RESIDUAL, ArchSpec, Norm, Weight
from neuromeld.errors import UnsupportedModelError


@dataclass(frozen=True)
class Architecture:
    """A spec bound to one model; all paths here are full module paths.

    `cuts` are the norms that read the residual stream, in order, the final norm last.  `widths` gives the size of
    each space.  `tied` says whether the output head is the embedding.
    """

    spec: ArchSpec
    num_layers: int
    width: int
    tied: bool
    widths: dict[str, int]

    def layer_path(self, layer: int, path: str = "") -> str:
        return f"{self.spec.layers}.{layer}" + (f".{path}" if path else "")

    def layer_weights(self, layer: int) -> tuple[Weight, ...]:
        """The weights of one layer, with full paths."""
        return tuple(
            replace(w, path=self.layer_path(layer, w.path), reads=w.reads and self.layer_path(layer, w.reads))
            for w in self.spec.layer_weights
        )

    def producers(self, layer: int, space: str) -> tuple[Weight, ...]:
        """The weights of one layer that write into `space`, with full paths."""
        return tuple(weight for weight in self.layer_weights(layer) if weight.out == space)

    def consumer(self, layer: int, space: str) -> Weight:
        """The one weight of a layer that reads `space`, a space of its own: `ffn` or `heads`."""
        (weight,) = (weight for weight in self.layer_weights(layer) if weight.in_ == space)
        return weight

    def cut_norms(self, layer: int) -> tuple[Norm, ...]:
        """The norms of one layer that read the residual stream, with full paths."""
        return tuple(replace(norm, path=self.layer_path(layer, norm.path)) for norm in self.spec.cut_norms)

    @property
    def weights(self) -> tuple[Weight, ...]:
        """Every weight of the model, the head included even when it is the embedding."""
        layers = (w for layer in range(self.num_layers) for w in self.layer_weights(layer))
        return (*self.spec.embeddings, *layers, self.spec.head)

    @property
    def cuts(self) -> tuple[Norm, ...]:
        layers = (norm for layer in range(self.num_layers) for norm in self.cut_norms(layer))
        return (*layers, self.spec.final_norm)

    @property
    def norms(self) -> tuple[Norm, ...]:
        """Every norm, those that do not read the residual stream included."""
        layers = (
            replace(norm, path=self.layer_path(layer, norm.path))
            for layer in range(self.num_layers)
            for norm in self.spec.layer_norms
        )
        embedding = (self.spec.embedding_norm,) if self.spec.embedding_norm else ()
        return (*embedding, *layers, self.spec.final_norm)


def resolve(model: nn.Module, spec: ArchSpec) -> Architecture:
    """Check `spec` against `model` and size its spaces.  The model may lie on the meta device.

    Raises `UnsupportedModelError` listing every difference: config values the spec does not cover, weights that
    are missing, parameters that nothing claims, axes of one space that disagree.
    """
    config = model.config
    problems = [
        f"config.{r.key}={getattr(config, r.key)!r}: {r.reason}"
        for r in spec.requires
        if getattr(config, r.key, r.value) != r.value
    ]
    if problems:
        raise UnsupportedModelError(f"this {spec.model_type} model is not covered: " + "; ".join(problems))

    num_layers = config.num_hidden_layers
    claims: dict[int, str] = {}
    sizes: dict[str, dict[int, str]] = defaultdict(dict)
    unbound = Architecture(spec, num_layers, width=0, tied=False, widths={})
    for weight in unbound.weights:
        module = find_module(model, weight.path)
        matrix = getattr(module, "weight", None)
        if matrix is None:
            problems.append(f"{weight.path}.weight is missing")
            continue
        size_in, size_out = matrix.shape[::-1] if weight.layout == "linear" else matrix.shape
        sizes[weight.in_][size_in] = weight.path
        sizes[weight.out][size_out // weight.repeats] = weight.path
        if weight.path != spec.head.path or id(matrix) not in claims:
            _claim(claims, matrix, f"{weight.path}.weight", problems)
        if getattr(module, "bias", None) is not None:
            _claim(claims, module.bias, f"{weight.path}.bias", problems)
    for norm in unbound.norms:
        module = find_module(model, norm.path)
        if getattr(module, "weight", None) is None:
            problems.append(f"{norm.path}.weight is missing")
            continue
        sizes[norm.over][module.weight.shape[0]] = norm.path
        for name, parameter in module.named_parameters(recurse=False):
            _claim(claims, parameter, f"{norm.path}.{name}", problems)

    problems += [
        f"space {space!r} has several sizes: " + ", ".join(f"{size} ({path})" for size, path in found.items())
        for space, found in sizes.items()
        if len(found) > 1
    ]
    unclaimed = [name for name, parameter in model.named_parameters() if id(parameter) not in claims]
    if unclaimed:
        shown = ", ".join(unclaimed[:8]) + (f" and {len(unclaimed) - 8} more" if len(unclaimed) > 8 else "")
        problems.append(f"{len(unclaimed)} unclaimed tensors: {shown}")
    if problems:
        raise UnsupportedModelError(
            f"{type(model).__name__} does not fit the architecture {spec.model_type!r}: " + "; ".join(problems)
        )
    head, embedding = find_module(model, spec.head.path), find_module(model, spec.embeddings[0].path)
    assert head is not None
    assert embedding is not None
    widths = {space: next(iter(found)) for space, found in sizes.items()}
    return Architecture(spec, num_layers, widths[RESIDUAL], head.weight is embedding.weight, widths)


def find_module(model: nn.Module, path: str) -> nn.Module | None:
    """The submodule at `path`, or None where the path does not exist."""
    module: nn.Module | None = model
    for part in path.split("."):
        module = getattr(module, part, None)
        if module is None:
            return None
    return module


def _claim(claims: dict[int, str], parameter: nn.Parameter, name: str, problems: list[str]) -> None:
    if id(parameter) in claims:
        problems.append(f"{name} is the same tensor as {claims[id(parameter)]}")
    claims[id(parameter)] = name
