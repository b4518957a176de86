"""Narrow models that a stock config cannot describe, as thin subclasses of the stock ones.

This file is also copied into every native checkpoint, so it imports nothing of neuromeld.  A `NeuromeldXForCausalLM`
is an `XForCausalLM` whose config carries one more entry, `neuromeld`:

    widths          by space, one width or one for each layer; `residual` is the residual stream
    layers, head    module paths of the layer lists and of the output head
    resized         [module path, "in" | "out" | "both", space, name]: parameters with an axis of that space, whose
                    width is not what the config says; `*` stands for every layer
    shared          lists of names of parameters that are one and the same; the first is the one on disk
    gains           paths of modules with a factor for each output
    low_rank        [module path, rank]: modules with a matrix of that rank beside their own
    narrow_tables   [module path, rank]: an embedding with a matrix behind it, and a head with one in front of it
    shortcuts       indices of the layers that the stream enters through a change of basis
    head_adapter    whether a square matrix stands between the final norm and a tied head
    token_scale     path of an embedding whose rows are scaled and shifted, or null
    identity        path of a norm that is not there any more, or null
"""

from functools import cache
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

PREFIX = "Neuromeld"


def native_model_type(model_type: str) -> str:
    """Return the model type of the native form of a stock model."""
    return f"neuromeld-{model_type}"


def build_modules(model: PreTrainedModel, block: dict[str, Any]) -> None:
    """Give a freshly constructed stock model the shapes that `block` states."""
    width = block["widths"]["residual"]
    for path, axis, space, name in block["resized"]:
        sizes = block["widths"][space]
        for index, module in _expand(model, path, block["layers"]):
            _resize(module, axis, sizes if isinstance(sizes, int) else sizes[index], name)
    for path in block["gains"]:
        module = model.get_submodule(path)
        module.gain = nn.Parameter(torch.ones(_sizes(module)[1]))
    for path, rank in block["low_rank"]:
        module = model.get_submodule(path)
        size_in, size_out = _sizes(module)
        module.down, module.up = nn.Linear(size_in, rank, bias=False), nn.Linear(rank, size_out, bias=False)
    for path, rank in block["narrow_tables"]:
        _narrow_table(model.get_submodule(path), rank)
    layers = model.get_submodule(block["layers"][0])
    for index in block["shortcuts"]:
        layers[index].shortcut = nn.Linear(width, width, bias=False)
    if block["head_adapter"]:
        model.head_adapter = nn.Linear(width, width, bias=False)
    if block["token_scale"]:
        embedding = model.get_submodule(block["token_scale"])
        embedding.scale = nn.Parameter(torch.ones(embedding.num_embeddings, 1))
        embedding.shift = nn.Parameter(torch.zeros(width))
    if block["identity"]:
        parent, _, name = block["identity"].rpartition(".")
        setattr(model.get_submodule(parent), name, nn.Identity())


def declare_shared(model: PreTrainedModel, block: dict[str, Any]) -> None:
    """Tell transformers which parameters are one and the same, so that they are stored once and stay so."""
    shared = {name: source for source, *others in block["shared"] for name in others}
    model._tied_weights_keys = (model._tied_weights_keys or {}) | shared
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)


def attach_member_hooks(model: nn.Module, block: dict[str, Any]) -> None:
    """Make gains and matrices of low rank take part in the forward pass."""
    for path in {*block["gains"], *(path for path, _ in block["low_rank"])}:
        model.get_submodule(path).register_forward_hook(_correct)


def attach_hooks(model: nn.Module, block: dict[str, Any]) -> None:
    """Make shortcuts, head adapter, narrow tables and token scale take part in the forward pass."""
    layers = model.get_submodule(block["layers"][0])
    for index in block["shortcuts"]:
        layers[index].register_forward_pre_hook(_change_basis, with_kwargs=True)
    if block["head_adapter"]:
        adapter = model.head_adapter
        model.get_submodule(block["head"]).register_forward_pre_hook(lambda _, args: (adapter(args[0]), *args[1:]))
    attach_table_hooks(model, [path for path, _ in block["narrow_tables"]])
    if block["token_scale"]:
        model.get_submodule(block["token_scale"]).register_forward_hook(_scale_tokens)


def attach_table_hooks(model: nn.Module, paths: list[str]) -> None:
    """Make the matrices behind a narrow embedding and in front of a narrow head take part in the forward pass."""
    for path in paths:
        module = model.get_submodule(path)
        if isinstance(module, nn.Embedding):
            module.register_forward_hook(lambda table, _, output: table.up(output), prepend=True)
        else:
            module.register_forward_pre_hook(lambda head, args: (head.down(args[0]), *args[1:]))


def _narrow_table(module: Any, rank: int) -> None:
    if isinstance(module, nn.Embedding):
        module.up = nn.Linear(rank, module.embedding_dim, bias=False)
        _resize(module, "out", rank, "weight")
    else:
        module.down = nn.Linear(module.in_features, rank, bias=False)
        _resize(module, "in", rank, "weight")


def _correct(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
    output = output * module.gain if hasattr(module, "gain") else output
    return output + module.up(module.down(args[0])) if hasattr(module, "down") else output


def _sizes(module: Any) -> tuple[int, int]:
    """Inputs and outputs of a linear layer or a Conv1D."""
    return (module.nx, module.nf) if isinstance(module, Conv1D) else (module.in_features, module.out_features)


def _change_basis(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    # The whole stream passes it, which autocast would round.
    with torch.autocast(args[0].device.type, enabled=False):
        return (layer.shortcut(args[0]), *args[1:]), kwargs


def _scale_tokens(embedding: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
    return output * nn.functional.embedding(args[0], embedding.scale) + embedding.shift


def _expand(model: nn.Module, path: str, lists: list[str]) -> list[tuple[int, nn.Module]]:
    """Return the modules that a path stands for, each with the number of its layer, counted through all lists; not
    all layers need to have one.
    """
    if "*" not in path:
        return [(0, model.get_submodule(path))]
    first = 0
    for layers in lists:
        depth = len(model.get_submodule(layers))
        if path.startswith(f"{layers}.*"):
            found = [(first + i, _find(model, path.replace("*", str(i)))) for i in range(depth)]
            return [(number, module) for number, module in found if module is not None]
        first += depth
    raise ValueError(f"{path} is in none of {lists}")


def _find(model: nn.Module, path: str) -> nn.Module | None:
    module: nn.Module | None = model
    for name in path.split("."):
        module = getattr(module, name, None)
    return module


def _resize(module: Any, axis: str, width: int, name: str) -> None:
    """Replace the module's parameter `name`, and its bias, by empty ones in which `axis` has `width` entries."""
    matrix = getattr(module, name)
    if isinstance(module, nn.LayerNorm):
        module.normalized_shape = (width,)
        shape: tuple[int, ...] = (width,)
    elif matrix.dim() == 1:
        shape = (width,)
    elif isinstance(module, nn.Linear):
        module.in_features = width if axis in ("in", "both") else module.in_features
        module.out_features = width if axis in ("out", "both") else module.out_features
        shape = (module.out_features, module.in_features)
    elif isinstance(module, Conv1D):
        module.nx = width if axis == "in" else module.nx
        module.nf = width if axis == "out" else module.nf
        shape = (module.nx, module.nf)
    elif isinstance(module, nn.Conv2d):
        shape = (width, *matrix.shape[1:]) if axis == "out" else (matrix.shape[0], width, *matrix.shape[2:])
        module.out_channels, module.in_channels = shape[0], shape[1]
        if module.groups > 1:
            module.groups = module.in_channels = width
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = width
        shape = (module.num_embeddings, width)
    elif matrix.dim() == 3:
        last = (axis == "in") != getattr(module, "is_transposed", False)
        shape = (*matrix.shape[:2], width) if last else (matrix.shape[0], width, matrix.shape[2])
    else:
        module.hidden_dim = width
        shape = (matrix.shape[0], width)
    setattr(module, name, nn.Parameter(torch.empty(shape, dtype=matrix.dtype, device=matrix.device)))
    bias = f"{name}_bias" if matrix.dim() == 3 else "bias"
    if axis in ("out", "both") and getattr(module, bias, None) is not None:
        shape = (shape[0], width) if matrix.dim() == 3 else (width,)
        setattr(module, bias, nn.Parameter(torch.empty(shape, dtype=matrix.dtype, device=matrix.device)))


@cache
def native_config(stock_config: type[PretrainedConfig]) -> type[PretrainedConfig]:
    """Return the config class of the native form of a stock model."""
    members = {"model_type": native_model_type(stock_config.model_type), "__module__": __name__}
    return type(f"{PREFIX}{stock_config.__name__}", (stock_config,), members)


@cache
def native_model(stock_model: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """Return the class of the native form of a stock model, with its head or without."""
    headless = stock_model is headless_model(stock_model)

    def block_of(config: Any) -> dict[str, Any]:
        return without_head(config.neuromeld, stock_model.base_model_prefix) if headless else config.neuromeld

    def __init__(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        if config._attn_implementation == "vllm":
            check_vllm(config.neuromeld)
        stock_model.__init__(self, config, *args, **kwargs)
        block = block_of(config)
        build_modules(self, block)
        attach_hooks(self, block)
        attach_member_hooks(self, block)
        declare_shared(self, block)
        self.tie_weights()

    def get_expanded_tied_weights_keys(self: Any, all_submodels: bool = False) -> dict[str, str]:
        stock: dict[str, str] = stock_model.get_expanded_tied_weights_keys(self, all_submodels=all_submodels)
        groups = block_of(self.config)["shared"]
        return stock | {name: source for source, *others in groups for name in others}

    def _adjust_bias(*_: Any) -> None:
        """Made for heads with a bias, of which there is none here; it would cut the biases of tied Conv1D modules."""

    members = {
        "__init__": __init__,
        "get_expanded_tied_weights_keys": get_expanded_tied_weights_keys,
        "_adjust_bias": _adjust_bias,
        "config_class": native_config(stock_model.config_class),
        "__module__": __name__,
    }
    return type(f"{PREFIX}{stock_model.__name__}", (stock_model,), members)


def headless_model(model: type[PreTrainedModel]) -> type[PreTrainedModel] | None:
    """Return the class that `AutoModel` gives for the config of a model, stock or native: the same without its head.

    None where it gives none, or the choice of several.
    """
    stock: Any = next(base for base in model.__mro__ if not base.__name__.startswith(PREFIX))
    found = transformers.MODEL_MAPPING.get(stock.config_class, None)
    if not isinstance(found, type):
        return None
    return found if stock is model else native_model(found)


def without_head(block: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Return the block of a model without its head, whose module paths start below `prefix`."""

    def below(path: str) -> str:
        return path.removeprefix(f"{prefix}.")

    return block | {
        "layers": [below(path) for path in block["layers"]],
        "resized": [[below(path), *rest] for path, *rest in block["resized"] if path != block["head"]],
        "shared": [[below(name) for name in names] for names in block["shared"]],
        "gains": [below(path) for path in block["gains"]],
        "low_rank": [[below(path), rank] for path, rank in block["low_rank"]],
        "narrow_tables": [[below(path), rank] for path, rank in block["narrow_tables"] if path != block["head"]],
        "head_adapter": False,
        "token_scale": block["token_scale"] and below(block["token_scale"]),
        "identity": block["identity"] and below(block["identity"]),
    }


def check_vllm(block: dict[str, Any]) -> None:
    """Raise `ValueError` for what vLLM would get wrong: it sizes heads and stream by the config, and loads no shared
    weights.

    vLLM's transformers backend asks for the model with its own attention, which is how it is known here.
    """
    narrowed = sorted({space for _, _, space, _ in block["resized"] if not space.startswith("ffn")})
    problems = [f"a width of its own for {', '.join(narrowed)}"] if narrowed else []
    problems += ["an embedding of lower rank"] if block["narrow_tables"] else []
    problems += ["FFNs that share weights"] if block["shared"] or block["gains"] or block["low_rank"] else []
    if problems:
        raise ValueError(
            f"vLLM cannot serve this neuromeld checkpoint, which has {' and '.join(problems)}; only FFNs may differ in "
            "width between layers. Compress the original with --stock, or serve this one with transformers"
        )


def __getattr__(name: str) -> type:
    """`NeuromeldXForCausalLM`, `NeuromeldXModel` or `NeuromeldXConfig`: so transformers finds a checkpoint's code."""
    if not name.startswith(PREFIX):
        raise AttributeError(name)
    stock = getattr(transformers, name.removeprefix(PREFIX))
    return native_model(stock) if issubclass(stock, PreTrainedModel) else native_config(stock)
