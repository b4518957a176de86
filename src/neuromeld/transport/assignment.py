"""The hard limit of transport: a permutation."""

import torch
from jaxtyping import Float, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from neuromeld.errors import NumericsError, UserInputError


def assign(similarity: Float[Tensor, "f f"]) -> Int64[Tensor, " f"]:
    """Return the permutation `pi` that maximises `sum_j similarity[j, pi[j]]`, so that `x[:, pi]` aligns x with the
    anchor.

    similarity  `(f, f)`, finite: anchor neurons in rows, the neurons to permute in columns

    Raises `UserInputError` if it is not square, `NumericsError` if it is not finite.
    Source: arXiv:2501.06126; solved exactly, in O(f^3), by scipy.
    """
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1]:
        raise UserInputError(f"similarity has shape {tuple(similarity.shape)}: a permutation needs a square matrix")
    if not bool(similarity.isfinite().all()):
        raise NumericsError("similarity has NaN or infinite entries: look for neurons whose variance is zero")
    _, columns = linear_sum_assignment(similarity.detach().double().cpu().numpy(), maximize=True)
    return torch.as_tensor(columns, dtype=torch.int64, device=similarity.device)
