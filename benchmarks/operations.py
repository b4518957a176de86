"""Operations that PyTorch does, counted: the same on every machine, and however busy it is."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
"""Which torch's own counter does not know."""


class CountedOperations(TorchDispatchMode):
    """Count, inside, products of matrices and attention.

    passes   in formats of forward passes
    float64  of statistics, the sums that BLAS takes on a processor apart, and of factors without factorisations
    """

    def __init__(self) -> None:
        super().__init__()
        self.passes = self.float64 = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet is CPU_ATTENTION:
            self.passes += sdpa_flop_count(*(tensor.shape for tensor in args[:3]))
        elif packet in flop_registry:
            count = flop_registry[packet](*args, **(kwargs or {}), out_val=out)
            if args[0].dtype == torch.float64:
                self.float64 += count
            else:
                self.passes += count
        return out
