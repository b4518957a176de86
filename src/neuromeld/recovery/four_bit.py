"""Matrices held in 4 bits while low-rank updates of them are trained (QLoRA, arXiv:2305.14314), through bitsandbytes.

NF4 in blocks of 64 weights; the blocks' scales are quantised again, to 8 bits in blocks of 256.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from neuromeld.checkpoint.source import ModelSource
from neuromeld.errors import PausedError, UserInputError

BLOCK = 64
"""Weights with one scale."""


def check_bitsandbytes() -> None:
    """Raise `UserInputError` where bitsandbytes is not installed."""
    if find_spec("bitsandbytes") is None:
        raise UserInputError("a base held in 4 bits needs bitsandbytes: pip install 'neuromeld[qlora]'")


@dataclass(frozen=True)
class FourBit:
    """Where the matrices are read again that were replaced by 4 bits, and what they are multiplied in meanwhile.

    They are read, not kept: else the run would take more memory than one without 4 bits.
    """

    source: ModelSource
    sha256: str
    compute: torch.dtype

    def unquantised(self) -> PreTrainedModel:
        """Return the model as it is on disk, on the CPU.  `PausedError` where it is no longer what was quantised."""
        if self.source.fingerprint() != self.sha256:
            raise PausedError(
                f"{self.source.name} was changed while its updates were trained, which fit the old weights only; put "
                "it back and run the same command again, which goes on from the last checkpoint"
            )
        return self.source.load(None, "cpu")

    def quantise(self, matrix: nn.Module) -> nn.Linear:
        """Return a linear map with its matrix (out, in) in 4 bits and its bias as it is.

        Rows are filled up with zeros to whole blocks, and so are inputs: bitsandbytes 0.50 reads rows of, say, 1008
        weights with the scales of other blocks on CPUs with AVX-512.  Where these have bfloat16 too, it would lay out
        the matrix anew at the first pass that is not training, which wants a multiple of 32 outputs and leaves other
        scales (bfloat16, not quantised) to the training behind it.
        """
        from bitsandbytes.nn import Linear4bit, Params4bit

        assert isinstance(matrix, nn.Linear | Conv1D)
        weight_oi = matrix.weight.data.T if isinstance(matrix, Conv1D) else matrix.weight.data
        num_out, num_in = weight_oi.shape
        held = Linear4bit(num_in, num_out, bias=False, compute_dtype=self.compute, device="meta")
        held.support_avx512bf16_for_cpu = False
        whole_oi = _whole_blocks(weight_oi)
        held.weight = Params4bit(whole_oi, quant_type="nf4", compress_statistics=True).to(whole_oi.device)
        held.bias = matrix.bias
        if num_in % BLOCK:
            held.register_forward_pre_hook(lambda _, inputs: (_whole_blocks(inputs[0]),))
        assert isinstance(held, nn.Linear)
        return held


def kept_whole(model: PreTrainedModel) -> set[str]:
    """Return the names of the matrices whose dtype a forward pass reads, or that transformers holds to need their
    precision.
    """
    return set(model._keep_in_fp32_modules or ())


def matrix_bytes(model: nn.Module) -> dict[str, int]:
    """Return the bytes of the matrices `held` in 4 bits, with their scales and code tables, and of the same in their
    own dtype.
    """
    from bitsandbytes.nn import Linear4bit

    held = own_dtype = 0
    for module in model.modules():
        if isinstance(module, Linear4bit):
            state: Any = module.weight.quant_state
            scales = state.state2
            tensors = (module.weight, state.absmax, state.code, state.offset, scales.absmax, scales.code)
            held += sum(tensor.nbytes for tensor in tensors)
            own_dtype += module.out_features * module.in_features * state.dtype.itemsize
    return {"held": held, "own_dtype": own_dtype}


def _whole_blocks(values: Tensor) -> Tensor:
    """Zeros after the end of each row."""
    return F.pad(values, (0, -values.shape[-1] % BLOCK))
