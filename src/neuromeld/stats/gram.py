"""Sums of `x^T x`, of which one triangle says everything."""

from dataclasses import dataclass

from jaxtyping import Float, Float64
from scipy.linalg.blas import dsyrk
from torch import Tensor

from neuromeld.shapes import ACCUMULATE


@dataclass(frozen=True)
class Gram:
    """A term of a sum: `x^T x`, which is not computed before it is added."""

    x: Float[Tensor, "n d"]

    def add_to(self, total: Float64[Tensor, "d d"]) -> None:
        """Add it, in place, to the lower triangle of `total`, contiguous; what is above has no meaning afterwards.

        On the CPU by BLAS, which does half of a product's work then (docs/decisions/0002).
        """
        x = self.x.to(ACCUMULATE)
        if total.device.type != "cpu":
            total.addmm_(x.mT, x)
            return
        # Fortran's order: what it takes for the upper triangle of columns is the lower one of rows.
        dsyrk(1.0, x.contiguous().numpy().T, beta=1.0, c=total.numpy().T, overwrite_c=True)


def fill_upper(total: Float64[Tensor, "d d"], rows: int = 512) -> Float64[Tensor, "d d"]:
    """Copy the lower triangle of `total` into the upper one, in place, some rows at a time."""
    for start in range(0, len(total), rows):
        end = start + rows
        block = total[start:end, start:end]
        block.copy_(block.tril() + block.tril(-1).mT)
        total[start:end, end:] = total[end:, start:end].mT
    return total
