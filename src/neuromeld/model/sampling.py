"""Let a language model write: tokens drawn from its own predictions, at temperature 1.

Suffixes of tensors: n texts, t tokens, v vocabulary.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from neuromeld.errors import NumericsError
from neuromeld.model.passes import forward_pass, own_format


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
    device = next(model.parameters()).device
    written_nt = torch.tensor([opening[0] for opening in openings])[:, None]
    past = None
    for place in range(1, length):
        with forward_pass(keep_casts=True):
            found = model(input_ids=written_nt[:, -1:].to(device), past_key_values=past, use_cache=True)
        past = found.past_key_values
        drawn_n = draw(own_format(found.logits[:, -1]).float(), generator).cpu()
        given = [opening[place] if place < len(opening) else -1 for opening in openings]
        given_n = torch.tensor(given)
        written_nt = torch.cat((written_nt, torch.where(given_n < 0, drawn_n, given_n)[:, None]), dim=1)
        advance(place + 1)
    return written_nt[:, :length]


def draw(logits_nv: Float[Tensor, "n v"], generator: torch.Generator) -> Int64[Tensor, " n"]:
    """Draw a token of each row by its probability: where one uniform number falls among the cumulated ones.

    On the device of the logits: of many rows, sums over the vocabulary are work for a card.  The generator is one of
    the CPU.  `NumericsError` where a logit is not finite; one that is minus infinity has no probability.
    """
    if logits_nv.isnan().any() or (logits_nv == torch.inf).any():
        raise NumericsError(
            "the model's logits contain NaN or infinity, so it cannot write text: give --calibration a named text or "
            "file:PATH, or another --dtype"
        )
    cumulated_nv = logits_nv.double().softmax(dim=1).cumsum(dim=1)
    uniform_n = torch.rand(len(logits_nv), generator=generator, dtype=torch.float64).to(logits_nv.device)
    # Scaled to the last sum, which rounding may leave below 1, so that no draw falls behind the end.
    found_n1 = torch.searchsorted(cumulated_nv, (uniform_n * cumulated_nv[:, -1])[:, None], right=True)
    return found_n1[:, 0].clamp(max=logits_nv.shape[1] - 1)
