"""Low-rank updates through peft, on models that share weights between layers."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from neuromeld.errors import UnsupportedModelError, UserInputError
from neuromeld.recovery.four_bit import FourBit, kept_whole

ALPHA = 2
"""`lora_alpha` over the rank: what the product of the two matrices is multiplied by."""


def check_peft() -> None:
    """Raise `UserInputError` where peft is not installed."""
    if find_spec("peft") is None:
        raise UserInputError("low-rank updates need peft: pip install 'neuromeld[recover]'")


@contextmanager
def low_rank_updates(model: PreTrainedModel, rank: int, base: FourBit | None = None) -> Iterator[nn.Module]:
    """Return the model with a trainable update of `rank` on every matrix inside its layers, merged into them at the
    end.

    base   hold the matrices in 4 bits meanwhile; the updates are merged into the unquantised ones, read again

    Matrices that share one weight share one update: each with its own, the merged weight would be the sum of updates
    that were trained apart.  Embeddings, norms and the head stay as they are.
    """
    from peft import LoraConfig, get_peft_model

    first, others = _matrices(model)
    largest = max(min(model.get_parameter(f"{path}.weight").shape) for path in first)
    if rank > largest:
        raise UserInputError(f"lora_rank={rank} is more than any matrix in the layers has; {largest} is the most")
    if base is not None:
        for path in first:
            if path.rpartition(".")[2] not in kept_whole(model):
                _put(model, path, base.quantise(model.get_submodule(path)))
    config = LoraConfig(r=rank, lora_alpha=ALPHA * rank, target_modules=first)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft finds every matrix's orientation, and says so of each Conv1D
        tuned: Any = get_peft_model(model, config)
    own = {path: model.get_submodule(path) for path in others} if base is None else {}
    for path, shared in others.items():
        _put(model, path, model.get_submodule(shared))
    yield tuned
    if base is not None:
        whole = base.unquantised()
        own = {path: whole.get_submodule(path).to(model.device) for path in others}
        for path in first:
            _put_back(model.get_submodule(path), whole.get_submodule(path).to(model.device))
    for path, module in own.items():
        _put(model, path, module)
    tuned.merge_and_unload()
    model.requires_grad_(True)


def _matrices(model: nn.Module) -> tuple[list[str], dict[str, str]]:
    """Paths of the layers' matrices: one for every weight, and every other path with the one it shares a weight with.

    What is not in a list of layers is left out: the head, and its adapter, which the forward pass reaches by a hook.
    """
    first: dict[int, tuple[str, nn.Module]] = {}
    others: dict[str, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        in_a_layer = any(part.isdigit() for part in path.split("."))
        if not in_a_layer or not isinstance(module, nn.Linear | Conv1D):
            continue
        shared, owner = first.setdefault(id(module.weight), (path, module))
        if shared != path:
            if module.bias is not owner.bias:
                raise UnsupportedModelError(
                    f"{path} shares its weight with {shared} but not its bias, which low-rank updates cannot follow; "
                    "train every parameter instead (--no-lora)"
                )
            others[path] = shared
    return [path for path, _ in first.values()], others


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def _put_back(layer: Any, matrix: nn.Module) -> None:
    """Let the layer's update be merged into `matrix`, in its orientation."""
    layer.base_layer, layer.fan_in_fan_out = matrix, isinstance(matrix, Conv1D)
