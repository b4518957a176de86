"""Recovery in several processes that hold a part of every layer each: weights, gradients and moments (FSDP).

A layer is whole in every process while it runs, forward and backward, and not between.  What lies outside of layers,
and what layers share, is whole everywhere, so that ties stay.  The optimizer works on the parts, as plain tensors.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from neuromeld.model.surgery import copy_structure
from neuromeld.recovery.ranks import average
from neuromeld.runtime.distributed import naming_lost_ranks, num_ranks


@dataclass(frozen=True)
class Part:
    """A parameter, and what the optimizer has of it: the part of this process, or itself where it is not sharded."""

    parameter: nn.Parameter
    own: nn.Parameter

    @classmethod
    def of(cls, parameter: nn.Parameter) -> "Part":
        """Return the part of a parameter that lies in this process, in the same memory."""
        if isinstance(parameter, DTensor):
            return cls(parameter, nn.Parameter(parameter.to_local().detach()))
        return cls(parameter, parameter)

    @property
    def is_sharded(self) -> bool:
        """Whether other processes hold the rest."""
        return self.own is not self.parameter

    def take_gradient(self) -> None:
        """Hand the gradient that a backward pass has left to the part."""
        if self.is_sharded:
            gradient, self.parameter.grad = self.parameter.grad, None
            self.own.grad = gradient.to_local() if isinstance(gradient, DTensor) else None

    def whole(self, value: Tensor) -> Tensor:
        """Return the parts of all processes, like `own`, as one tensor; a number is the same in all of them."""
        if not isinstance(self.parameter, DTensor) or value.shape != self.own.shape:
            return value
        mesh, placements = self.parameter.device_mesh, self.parameter.placements
        shape, stride = self.parameter.shape, self.parameter.stride()
        with naming_lost_ranks():
            return DTensor.from_local(value.detach(), mesh, placements, shape=shape, stride=stride).full_tensor()

    def part(self, value: Tensor) -> Tensor:
        """Return what this process holds of a whole tensor that all of them have."""
        if not isinstance(self.parameter, DTensor) or value.shape != self.parameter.shape:
            return value
        mesh, placements = self.parameter.device_mesh, self.parameter.placements
        return distribute_tensor(value, mesh, placements, src_data_rank=None).to_local()


def take_gradients(parts: Iterable[Part], largest: float) -> None:
    """Average the gradients of all processes, and scale them so that their norm is at most `largest`."""
    parts = list(parts)
    average(one.own.grad for one in parts if not one.is_sharded and one.own.grad is not None)
    for one in parts:
        one.take_gradient()
    sharded = [one.own.grad for one in parts if one.is_sharded and one.own.grad is not None]
    if not sharded:
        nn.utils.clip_grad_norm_([one.own for one in parts], largest)
        return
    square = torch.stack([gradient.square().sum() for gradient in sharded]).sum()
    with naming_lost_ranks():
        dist.all_reduce(square)
    here = [one.own.grad.square().sum() for one in parts if not one.is_sharded and one.own.grad is not None]
    norm = torch.stack([square, *here]).sum().sqrt()
    nn.utils.clip_grads_with_norm_([one.own for one in parts], largest, norm)


@contextmanager
def sharded(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """Return the model to be trained, of whose layers each process holds a part; `model` has no values there inside.

    At the end `model` has what was trained, whole, in every process.
    """
    copy = cast(PreTrainedModel, copy_structure(model))
    layers = _layers(copy)
    alone = _in_one_layer(copy, layers)
    mesh = init_device_mesh(model.device.type, (num_ranks(),))
    for path in layers:
        layer = copy.get_submodule(path)
        outside = {parameter for parameter in layer.parameters() if parameter not in alone}
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=outside)
    for parameter in alone:
        parameter.data = parameter.data.new_empty(0)
    yield copy
    for name, parameter in copy.named_parameters():
        if isinstance(parameter, DTensor):
            with naming_lost_ranks():
                model.get_parameter(name).data = parameter.full_tensor().detach()


def _layers(model: nn.Module) -> list[str]:
    """Return the paths of what stands in lists of modules, the outermost."""
    found: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not any(name.startswith(f"{path}.") for path in found):
            found += [f"{name}.{index}" for index in range(len(module))]
    return found


def _in_one_layer(model: nn.Module, layers: list[str]) -> set[nn.Parameter]:
    """Return the parameters that occur in one layer and nowhere else."""
    places: dict[nn.Parameter, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        place = next((path for path in layers if name.startswith(f"{path}.")), "")
        places.setdefault(parameter, set()).add(place)
    return {parameter for parameter, found in places.items() if len(found) == 1 and "" not in found}
