"""Learn the directions that a narrow stream keeps, one basis for all layers, with the weights frozen.

What every norm reads of the stream is projected onto the directions `Q`, which is what the narrow model computes to the
last digit (`width_map.py`), and `Q`, by the QR of a free matrix, is moved by the divergence from the whole model's
predictions.  A tied head is the narrow embedding, so what it reads is projected, too; behind a LayerNorm it is refitted
in the end, and left alone here.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuromeld.model.capture import Batch
from neuromeld.model.learning import Teacher
from neuromeld.shapes import ACCUMULATE
from neuromeld.stages.width.width_map import centred


@dataclass(frozen=True)
class Directions:
    """Directions to be learned, as a free matrix `(d, k)` of which they are the QR factor.

    start  orthonormal columns
    """

    teacher: Teacher
    start: Float[Tensor, "d k"]
    name: str = "directions"
    rate: float = 0.002

    def begin(self, batches: Sequence[Batch]) -> Tensor:  # noqa: ARG002
        """Return the directions to start from."""
        return self.start.to(ACCUMULATE)

    @torch.enable_grad()
    def gradient(self, numbers: Tensor, batch: Batch, way: float) -> tuple[float, Tensor]:  # noqa: ARG002
        """Return the loss with the stream projected, and its gradient through the QR factor."""
        free = numbers.detach().requires_grad_()
        projection = self._projection(free)
        leaf = projection.detach().requires_grad_()
        loss, (by_projection,) = self.teacher.divergence([batch], self._projected(leaf), [leaf])
        (gradient,) = torch.autograd.grad(projection, free, by_projection)
        return loss, gradient

    def test(self, numbers: Tensor, batches: Sequence[Batch]) -> float:
        """Return the loss with the stream projected."""
        return self.teacher.divergence(batches, self._projected(self._projection(numbers)))[0]

    def directions(self, numbers: Tensor) -> Float[Tensor, "d k"]:
        """Return the directions of a free matrix, without what a LayerNorm does not see."""
        kept: Tensor = torch.linalg.qr(centred(numbers, self.teacher.arch.spec.kind)).Q
        return kept

    def _projection(self, numbers: Tensor) -> Float[Tensor, "d d"]:
        kept = self.directions(numbers)
        return kept @ kept.T

    def _projected(self, projection: Tensor) -> Any:
        arch = self.teacher.arch
        norms = [norm.path for layer in range(arch.num_layers) for norm in arch.residual_norms(layer)]
        handing_on = [arch.final_norm.path] if arch.tied and arch.spec.kind == "rms" else []
        return partial(_projected, self.teacher.model, [*norms, arch.final_norm.path], handing_on, projection)


@contextmanager
def _projected(
    model: nn.Module, reading: Sequence[str], handing_on: Sequence[str], projection: Float[Tensor, "d d"]
) -> Iterator[None]:
    """Inside, some modules read their input times the projection, and some hand on their output times it."""

    def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0] @ projection.to(args[0]), *args[1:])

    def after(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        return output @ projection.to(output)

    with ExitStack() as hooks:
        for path in reading:
            hooks.callback(model.get_submodule(path).register_forward_pre_hook(before).remove)
        for path in handing_on:
            hooks.callback(model.get_submodule(path).register_forward_hook(after).remove)
        yield
