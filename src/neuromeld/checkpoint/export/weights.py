"""The weights of a model as engines read them: one full set for each layer, with corrections folded in."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

CORRECTIONS = (".gain", ".down.weight", ".up.weight")
"""What a native FFN has beside its shared output matrix."""

FFN_AXIS = {
    **{f"{name}.{kind}": 0 for name in ("gate_proj", "up_proj", "gate_up_proj") for kind in ("weight", "bias")},
    "down_proj.weight": 1,
}
"""The axis of hidden neurons of the tensors of a gated FFN."""

BOTH = "gate_up_proj."
"""What has two matrices in one, an equal share of the rows each."""


@dataclass(frozen=True)
class PlainWeights:
    """The tensors of a gated decoder by their stock names, computed one at a time.

    multiple   FFNs are filled up with neurons of weight zero to a width that this divides, which changes nothing
    """

    model: PreTrainedModel
    multiple: int = 1

    @property
    def names(self) -> list[str]:
        """The names, without a head that is tied to the embedding."""
        tied = {"lm_head.weight"} if self.model.config.tie_word_embeddings else set()
        return [name for name in self.model.state_dict() if name not in tied and not name.endswith(CORRECTIONS)]

    def width(self, neurons: int) -> int:
        """Return the width that an FFN of so many neurons is written with; one without any has the least."""
        return max(1, -(-neurons // self.multiple)) * self.multiple

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name in self.names:
            yield name, self[name]

    def __getitem__(self, name: str) -> Tensor:
        path, _, kind = name.rpartition(".")
        module = self.model.get_submodule(path)
        tensor = _corrected(module, kind, self.model.get_parameter(name).detach())
        axis = next((axis for end, axis in FFN_AXIS.items() if name.endswith(f"mlp.{end}")), None)
        if axis is None:
            return tensor
        parts = tensor.chunk(2 if BOTH in name else 1, axis)
        return torch.cat([_filled(part, axis, self.width(part.shape[axis])) for part in parts], axis)


@torch.no_grad()
def _corrected(module: nn.Module, kind: str, tensor: Tensor) -> Tensor:
    """Return a weight or bias of an output matrix with its gain and its matrix of low rank in it."""
    gain, down = getattr(module, "gain", None), getattr(module, "down", None)
    if gain is None and down is None:
        return tensor
    found = tensor.double()
    if gain is not None:
        found = found * (gain[:, None] if kind == "weight" else gain)
    if down is not None and kind == "weight":
        up: Tensor = module.up.weight  # type: ignore[union-attr, assignment]
        found = found + up.double() @ down.weight.double()
    return found.to(tensor.dtype)


def _filled(tensor: Tensor, axis: int, width: int) -> Tensor:
    if tensor.shape[axis] == width:
        return tensor
    shape = list(tensor.shape)
    shape[axis] = width
    found = tensor.new_zeros(shape)
    found.narrow(axis, 0, tensor.shape[axis]).copy_(tensor)
    return found
