"""Let a language model write: tokens drawn from its own predictions, at temperature 1.

Suffixes of tensors: n texts, t tokens, v vocabulary.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from neuromeld.errors import NumericsError
from neuromeld.model.passes import forward_pass, own_format
from neuromeld.runtime.streaming import device_of

CHECKED = 32
"""Tokens between two looks at whether logits are finite, for which a card has to be waited."""


@torch.no_grad()
def write_tokens(
    model: nn.Module,
    openings: Sequence[Sequence[int]],
    length: int,
    generator: torch.Generator,
    advance: Callable[[int], None] = lambda _: None,
) -> Int64[Tensor, "n t"]:
    """Return texts of `length` tokens, each of which begins with its opening, on the CPU.

    Every opening has at least one token; none ends a text early, and a model goes on behind the end of a document.  The
    generator is one of the CPU.  `NumericsError` where a logit is not finite.
    """
    device = device_of(model)
    written_nt = torch.tensor([opening[0] for opening in openings], device=device)[:, None]
    past, finite = None, torch.tensor(True, device=device)
    for place in range(1, length):
        with forward_pass(keep_casts=True):
            found = model(input_ids=written_nt[:, -1:], past_key_values=past, use_cache=True)
        past = found.past_key_values
        logits_nv = own_format(found.logits[:, -1]).float()
        finite = finite & ~(logits_nv.isnan().any() | (logits_nv == torch.inf).any())
        next_n = draw(logits_nv, generator)
        given = [opening[place] if place < len(opening) else -1 for opening in openings]
        if max(given) >= 0:
            given_n = torch.tensor(given, device=device)
            next_n = torch.where(given_n < 0, next_n, given_n)
        written_nt = torch.cat((written_nt, next_n[:, None]), dim=1)
        if place % CHECKED == 0 or place == length - 1:
            _check_finite(finite)
        advance(place + 1)
    return written_nt[:, :length].cpu()


def draw(logits_nv: Float[Tensor, "n v"], generator: torch.Generator) -> Int64[Tensor, " n"]:
    """Draw a token of each row by its probability: where one uniform number falls among the cumulated ones.

    On the device of the logits: of many rows, sums over the vocabulary are work for a card.  The generator is one of
    the CPU.  Logits are below infinity; one that is minus infinity has no probability.
    """
    cumulated_nv = logits_nv.double().softmax(dim=1).cumsum(dim=1)
    uniform_n = torch.rand(len(logits_nv), generator=generator, dtype=torch.float64).to(logits_nv.device)
    # Scaled to the last sum, which rounding may leave below 1, so that no draw falls behind the end.
    found_n1 = torch.searchsorted(cumulated_nv, (uniform_n * cumulated_nv[:, -1])[:, None], right=True)
    return found_n1[:, 0].clamp(max=logits_nv.shape[1] - 1)


def _check_finite(finite: Tensor) -> None:
    if not finite:
        raise NumericsError(
            "the model's logits contain NaN or infinity, so it cannot write text: give --calibration a named text or "
            "file:PATH, or another --dtype"
        )
