"""Read and write the weights of a live model.  The only module that mutates one.

Matrices come and go as `(in, out)`, whatever the module stores; embeddings are `(vocab, d)`, which is the same thing.
"""

import torch
from torch import Tensor, nn

from neuromeld.archs.spec import Weight
from neuromeld.errors import NumericsError


def read_matrix(model: nn.Module, weight: Weight) -> Tensor:
    """The matrix as `(in, out)`, in its own dtype; a view where that is possible."""
    matrix: Tensor = model.get_submodule(weight.path).weight.detach()
    return matrix.T if weight.layout == "linear" else matrix


def write_matrix(model: nn.Module, weight: Weight, matrix: Tensor) -> None:
    """Store `matrix`, `(in, out)` in any float dtype, in the module's own dtype and layout; the shape may change."""
    module = model.get_submodule(weight.path)
    stored = matrix.T if weight.layout == "linear" else matrix
    _replace(module, "weight", stored, f"{weight.path}.weight")
    size_in, size_out = matrix.shape
    _set_sizes(module, size_in, size_out)


def read_bias(model: nn.Module, weight: Weight) -> Tensor | None:
    """The bias, `(out,)`, or None."""
    bias: Tensor | None = getattr(model.get_submodule(weight.path), "bias", None)
    return None if bias is None else bias.detach()


def write_bias(model: nn.Module, weight: Weight, bias: Tensor) -> None:
    """Store a bias, `(out,)`, in the module's own dtype."""
    _replace(model.get_submodule(weight.path), "bias", bias, f"{weight.path}.bias")


def read_norm(model: nn.Module, path: str) -> tuple[Tensor, Tensor | None]:
    """Gain and bias (None where the norm has none), each `(d,)`."""
    module = model.get_submodule(path)
    bias: Tensor | None = getattr(module, "bias", None)
    return module.weight.detach(), None if bias is None else bias.detach()


def write_norm(model: nn.Module, path: str, gain: Tensor, bias: Tensor | None) -> None:
    """Store gain and bias; the width may change."""
    module = model.get_submodule(path)
    _replace(module, "weight", gain, f"{path}.weight")
    if bias is not None:
        _replace(module, "bias", bias, f"{path}.bias")
    if hasattr(module, "normalized_shape"):
        module.normalized_shape = (gain.shape[0],)


def tie(model: nn.Module, path: str, to: str) -> None:
    """Make the weight at `path` the very parameter at `to`."""
    module, source = model.get_submodule(path), model.get_submodule(to)
    module.weight = source.weight
    out, in_ = source.weight.shape
    _set_sizes(module, in_, out)


def add_linear(model: nn.Module, path: str, matrix: Tensor, like: Tensor) -> None:
    """Attach a bias-free linear layer `(in, out)` at `path`, in the dtype and on the device of `like`."""
    parent, name = path.rsplit(".", 1) if "." in path else ("", path)
    module = nn.Linear(*matrix.shape, bias=False, dtype=like.dtype, device="meta")
    module.weight = nn.Parameter(torch.empty(0, dtype=like.dtype, device=like.device), requires_grad=like.requires_grad)
    _replace(module, "weight", matrix.T, f"{path}.weight")
    model.get_submodule(parent).add_module(name, module)


def scale_rows(model: nn.Module, path: str, scale: Tensor, shift: Tensor) -> None:
    """Give the embedding at `path` a scale a row, `(vocab, 1)`, and a shift, `(k,)`, as parameters."""
    module = model.get_submodule(path)
    weight: nn.Parameter = module.weight
    for name, value in (("scale", scale), ("shift", shift)):
        setattr(module, name, nn.Parameter(torch.empty_like(weight[:0, 0]), requires_grad=weight.requires_grad))
        _replace(module, name, value, f"{path}.{name}")


def remove_module(model: nn.Module, path: str) -> None:
    """Put an identity in the place of the module at `path`."""
    parent, name = path.rsplit(".", 1)
    model.get_submodule(parent).add_module(name, nn.Identity())


def _replace(module: nn.Module, name: str, value: Tensor, label: str) -> None:
    old: nn.Parameter = getattr(module, name)
    new = value.to(dtype=old.dtype, device=old.device).contiguous()
    if not torch.isfinite(new).all():
        raise NumericsError(f"{label} would not be finite in {old.dtype}; try a wider --dtype or a larger ratio")
    setattr(module, name, nn.Parameter(new, requires_grad=old.requires_grad))


def _set_sizes(module: nn.Module, size_in: int, size_out: int) -> None:
    """Keep the size attributes that linear, embedding and Conv1D modules carry in step with their weights."""
    if isinstance(module, nn.Linear):
        module.in_features, module.out_features = size_in, size_out
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = size_in, size_out
    else:
        module.nx, module.nf = size_in, size_out


def select_outputs(model: nn.Module, weight: Weight, kept: Tensor) -> None:
    """Keep some of the outputs of a matrix and of its bias, by index."""
    bias = read_bias(model, weight)
    write_matrix(model, weight, read_matrix(model, weight)[:, kept])
    if bias is not None:
        write_bias(model, weight, bias[kept])
