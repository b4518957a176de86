"""How close a model is to its original where there is nothing to be right about: classifiers, rewards, embeddings."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from neuromeld.errors import NumericsError, UserInputError
from neuromeld.evaluation.mode import eval_mode
from neuromeld.model.capture import Batch
from neuromeld.model.outputs import said


@dataclass(frozen=True)
class Closeness:
    """How close what a model says is to what its original says of the same data; None of what does not apply.

    rows         texts, images or tokens that were compared
    divergence   of the original's distributions from the model's, mean KL in nats
    agreement    share of rows whose likeliest class or token is the original's
    cosine       mean cosine of embeddings, the mean hidden states of a text or an image
    correlation  Pearson's, of single numbers, such as rewards; None where one of the two never changes
    """

    rows: int
    divergence: float | None = None
    agreement: float | None = None
    cosine: float | None = None
    correlation: float | None = None

    @property
    def scores(self) -> dict[str, float]:
        """Return the scores that apply, by name."""
        named = {name: getattr(self, name) for name in ("divergence", "agreement", "cosine", "correlation")}
        return {name: value for name, value in named.items() if value is not None}


@torch.no_grad()
def closeness(model: PreTrainedModel, original: PreTrainedModel, batches: Iterable[Batch]) -> Closeness:
    """Compare what two models say of batches: logits, numbers, or embeddings.

    Raises `UserInputError` for models that say different things, or nothing of these batches, `NumericsError` where an
    output is not finite.
    """
    total, rows = torch.zeros(2, dtype=torch.float64), 0
    numbers: list[Tensor] = []
    kind = None
    with eval_mode(model, original):
        for batch in batches:
            mine, theirs = said(model, batch), said(original, batch)
            if (mine.kind, mine.rows.shape) != (theirs.kind, theirs.rows.shape):
                raise UserInputError(
                    f"{type(model).__name__} gives {mine.kind} of shape {tuple(mine.rows.shape)} and its original, "
                    f"{type(original).__name__}, {theirs.kind} of shape {tuple(theirs.rows.shape)}: they cannot be "
                    "compared; name the model that it was made of"
                )
            pair = torch.stack([mine.rows, theirs.rows.to(mine.rows)])
            if not torch.isfinite(pair).all():
                raise NumericsError("what the models say contains NaN or infinity; evaluate in bfloat16 or float32")
            kind, rows = mine.kind, rows + len(mine.rows)
            if kind == "numbers":
                numbers.append(pair[..., 0].double().cpu())
            else:
                total += _sums(kind, *pair.float())
    if not rows:
        raise UserInputError("there is no data to compare the models on")
    if kind == "numbers":
        return Closeness(rows, correlation=_correlation(torch.cat(numbers, dim=1)))
    first, second = (total / rows).tolist()
    return Closeness(rows, divergence=first, agreement=second) if kind == "logits" else Closeness(rows, cosine=first)


def _sums(kind: str, mine: Tensor, theirs: Tensor) -> Tensor:
    """Return the divergence and the agreement, or the cosine and nothing, summed over rows."""
    if kind == "embeddings":
        return torch.stack(
            [F.cosine_similarity(mine, theirs).double().sum().cpu(), torch.zeros((), dtype=torch.float64)]
        )
    divergence = F.kl_div(mine.log_softmax(-1), theirs.log_softmax(-1), log_target=True, reduction="none").sum(-1)
    agrees = mine.argmax(-1) == theirs.argmax(-1)
    return torch.stack([divergence.double().sum(), agrees.double().sum()]).cpu()


def _correlation(pair: Tensor) -> float | None:
    value = float(torch.corrcoef(pair)[0, 1]) if pair.shape[1] > 1 else float("nan")
    return None if value != value else value
