"""A choice of units whose matrix is refitted, inside a model: what is written then, and what each unit changes of it.

The units that stay stand in for the others by least squares, and the second moments of all features say how, for any
choice.  Their inverse also says what one unit fewer would change, or one more, with the rest refitted each time: the
update of Optimal Brain Surgeon (Hassibi and Stork, 1993), for groups of features.

Suffixes of tensors: n tokens, f features, d written, u units.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor, nn

from neuromeld.archs.spec import Weight
from neuromeld.model.surgery import read_bias, read_matrix
from neuromeld.runtime.streaming import device_of
from neuromeld.shapes import ACCUMULATE

DAMPING = 0.1
"""Added to every second moment, as a share of their mean."""


@dataclass(frozen=True)
class Refitted:
    """What units write whose matrix is refitted, and what each of all units has that the others that stay have not.

    matrix  of the features, 0 where they are gone
    own     `x @ own.T` is the part of each feature that no other unit that stays writes for it
    effect  what that part is worth: one unit fewer takes `own @ effect` of its features away, one more adds it
    """

    matrix: Float[Tensor, "f d"]
    own: Float[Tensor, "f f"]
    effect: Float[Tensor, "f d"]


def refitted(
    gram: Float64[Tensor, "f f"], matrix: Float64[Tensor, "f d"], kept: Bool[Tensor, " u"], size: int = 1
) -> Refitted:
    """Refit `matrix` for the units that are kept, of `size` features each; `gram` is positive definite."""
    stay = kept.repeat_interleave(size)
    here, gone = stay.nonzero()[:, 0], (~stay).nonzero()[:, 0]
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram[here][:, here]))
    between = gram[here][:, gone]
    stands_in = inverse @ between
    rest = gram[gone][:, gone] - between.T @ stands_in
    new, own, effect = torch.zeros_like(matrix), torch.zeros_like(gram), torch.zeros_like(matrix)
    new[here] = effect[here] = matrix[here] + stands_in @ matrix[gone]
    own[here[:, None], here] = _by_unit(inverse, inverse, size)
    own[gone[:, None], here], own[gone, gone] = -stands_in.T, 1
    effect[gone] = _by_unit(rest, rest @ matrix[gone], size)
    return Refitted(new, own, effect)


def _by_unit(square: Tensor, rows: Tensor, size: int) -> Tensor:
    """Return the rows of each unit times the inverse of its own block on the diagonal."""
    units = torch.arange(len(square) // size, device=square.device)
    blocks = square.view(len(units), size, len(units), size)[units, :, units]
    found: Tensor = torch.linalg.solve(blocks, rows.view(len(units), size, rows.shape[1]))
    return found.reshape(rows.shape)


@dataclass(frozen=True)
class Read:
    """What a consumer reads in the whole model: the second moments of its features, by which it is refitted.

    gram  around the means where it has a bias
    mean  of each feature; None where it has no bias
    size  features of a unit
    """

    consumer: Weight
    gram: Float[Tensor, "f f"]
    mean: Float64[Tensor, " f"] | None
    size: int

    def refitted(self, model: nn.Module, kept: Bool[Tensor, " u"]) -> Refitted:
        """Refit its matrix for the units that are kept."""
        device = device_of(model)
        gram = self.gram.to(device, ACCUMULATE, copy=True)
        gram.diagonal().add_((DAMPING * gram.diagonal().mean()).clamp_min(torch.finfo(torch.float32).tiny))
        matrix = read_matrix(model, self.consumer)
        found = refitted(gram, matrix.to(device, ACCUMULATE), kept, self.size)
        dtype = torch.promote_types(matrix.dtype, torch.float32)
        return Refitted(found.matrix.to(dtype), found.own.to(dtype), found.effect.to(dtype))


@dataclass(frozen=True)
class Choices:
    """Let consumers of a model read some of their units alone, their matrix refitted where that is known.

    read  by path; the units of other consumers are only multiplied by their mask
    keep  the last choice of each is held, for one that does not change
    """

    model: nn.Module
    read: Mapping[str, Read] = field(default_factory=dict)
    keep: bool = True
    _last: dict[str, tuple[Tensor, Refitted]] = field(default_factory=dict, init=False, repr=False)

    @contextmanager
    def made(self, masks: Mapping[str, Tensor]) -> Iterator[None]:
        """Inside, units stay where the mask of their path is 1 and are gone where it is 0; gradients reach masks."""
        with ExitStack() as hooks:
            for path, mask in masks.items():
                module = self.model.get_submodule(path)
                if path in self.read:
                    hooks.callback(module.register_forward_hook(self._writing(path, mask)).remove)
                else:
                    hooks.callback(module.register_forward_pre_hook(_multiplying(mask)).remove)
            yield

    def _writing(self, path: str, mask: Tensor) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
        read, found = self.read[path], self._refitted(path, mask.detach() > 0.5)
        bias = read_bias(self.model, read.consumer)

        def write(_: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
            x = args[0]
            written: Tensor = _Write.apply(x, mask, found, read)
            if bias is not None and read.mean is not None:
                matrix, mean = read_matrix(self.model, read.consumer).to(x.device, ACCUMULATE), read.mean.to(x.device)
                written = written + (bias.to(mean) + mean @ (matrix - found.matrix)).to(written)
            return written.to(out.dtype)

        return write

    def _refitted(self, path: str, kept: Tensor) -> Refitted:
        if path in self._last and torch.equal(self._last[path][0], kept):
            return self._last[path][1]
        found = self.read[path].refitted(self.model, kept)
        if self.keep:
            self._last[path] = kept, found
        return found


def _multiplying(mask: Tensor) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    def multiply(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x = args[0]
        return (x * mask.to(x).repeat_interleave(x.shape[-1] // len(mask)), *args[1:])

    return multiply


class _Write(torch.autograd.Function):
    """`x @ matrix`; a unit's mask has the gradient of what the unit changes, with the rest refitted."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, found: Refitted, read: Read) -> Tensor:
        ctx.save_for_backward(x, mask)
        ctx.found, ctx.read = found, read
        return x @ found.matrix.to(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x, mask), (gradient,) = ctx.saved_tensors, gradients
        found, mean = ctx.found, ctx.read.mean
        x_nf, gradient_nd = x.flatten(0, -2).to(found.own), gradient.flatten(0, -2).to(found.own)
        changes_nf = (x_nf if mean is None else x_nf - mean.to(x_nf)) @ found.own.T
        felt_f = (changes_nf * (gradient_nd @ found.effect.T)).sum(0)
        of_mask = felt_f.view(len(mask), -1).sum(1).to(mask) if ctx.needs_input_grad[1] else None
        return gradient @ found.matrix.to(gradient).T, of_mask, None, None
