"""Maps of the residual stream chosen by the gradient of the loss, next to the principal directions (decision 0008).

    S   second moment of the normalised stream `N` where norms read it, summed over cuts
    G   second moment of the loss gradient by `N`, through that norm alone: what one reader would feel of an error

A narrow model is the original one with `N -> N P` at every cut.  To second order, and with gradients independent of the
stream, the loss grows by `tr(G (1 - P)^T S (1 - P)) / 2`, which the `P` from the leading eigenvectors of
`sqrt(S) G sqrt(S)`, with the least-squares decoder, makes as small as can be.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from neuromeld.gradients import watch_gradients
from neuromeld.plan import architecture_of
from neuromeld.streams import Batch, norm_epsilon, normalise
from neuromeld.width import Basis, WidthMap, basis_of, narrow_residual
from neuromeld.width.decoders import DECODERS
from neuromeld.width.merges import Merge

FLOOR = 1e-9
"""Smallest eigenvalue of a second moment, over the largest."""

WEIGHTINGS = ("fisher", "square root of fisher", "fisher of tokens")
"""`G`; its square root, half way to no weighting; one weight a token, the squared norm of its gradient."""


@torch.no_grad()
def narrow_by_fisher(model: PreTrainedModel, batches: Sequence[Batch], k: int, weighting: str) -> None:
    """Narrow the residual stream of a model with RMSNorms and a tied head to `k`, in place."""
    arch = architecture_of(model)
    basis = fisher_basis(model, batches, k, weighting)
    narrow_residual(model, arch, (0,), [basis], stock=True, refit_on=None)
    model.config.hidden_size = k


def fisher_basis(model: PreTrainedModel, batches: Sequence[Batch], k: int, weighting: str) -> Basis:
    """One basis for the whole model, from one forward and backward pass, a window at a time."""
    arch = architecture_of(model)
    norms = {norm.path: norm for norm in arch.cuts}
    moments = {name: torch.zeros(arch.width, arch.width, dtype=torch.float64) for name in ("S", "G", "tokens")}

    def see(path: str, x: Tensor, gradient: Tensor) -> None:
        module = model.get_submodule(path)
        n = normalise(x, norms[path], module).double()
        scale = (x.double().square().mean(1, keepdim=True) + norm_epsilon(module)).sqrt()
        g = gradient.double() * scale
        moments["S"] += n.T @ n
        moments["G"] += g.T @ g
        moments["tokens"] += (n * g.square().sum(1, keepdim=True)).T @ n

    windows = [{"input_ids": row[None]} for batch in batches for row in batch["input_ids"]]
    watch_gradients(model, list(norms), windows, see)
    return basis_of(_map(moments, k, weighting), arch.spec.kind)


def _map(moments: dict[str, Tensor], k: int, weighting: str) -> WidthMap:
    if weighting == "fisher of tokens":
        directions = _leading(moments["tokens"], k)
        return WidthMap(directions, directions.T)
    metric = moments["G"] if weighting == "fisher" else _power(moments["G"], 0.5)
    root = _power(moments["S"], 0.5)
    encode, _ = torch.linalg.qr(_power(moments["S"], -0.5) @ _leading(root @ metric @ root, k))
    return DECODERS["ridge"](Merge(encode), moments["S"])


def _leading(matrix: Tensor, k: int) -> Tensor:
    return torch.linalg.eigh(matrix).eigenvectors[:, -k:]


def _power(matrix: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    powers: Tensor = values.clamp(min=FLOOR * float(values.max())) ** exponent
    return (vectors * powers) @ vectors.T
