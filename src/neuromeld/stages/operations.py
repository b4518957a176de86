"""Operations that a stage takes, predicted from sizes: what a plan tells a time from."""

from collections.abc import Collection

from neuromeld.archs.sizes import Sizes, predict_flops, weight_flops
from neuromeld.archs.spec import Space, Weight
from neuromeld.linalg.ridge import COMBINATIONS
from neuromeld.stages.base import Operations, Workload
from neuromeld.stages.windows import SEARCH_TOKENS
from neuromeld.units.levels import LEVELS, TOKENS

BACKWARD = 3
"""Plain forward passes that a forward and a backward pass cost."""

LEARNING = 4.0
"""Plain forward passes over the data that learning from the predictions of the original costs, which is run, too."""

EIGENVECTORS = 10
"""Operations of a product that all eigenvectors of a symmetric matrix `(n, n)` cost as much as, over `n^3`: measured
at n = 1024 on a processor."""

COLLECTING = 1.5
"""Plain forward passes over the data that a walk costs which takes sums of all sublayers, and changes nothing."""

ASSIGNMENT = 1.5
"""The same of the best permutation of `n` hidden units, over `n^3` (docs/decisions/0017)."""

RACED = 0.7
"""Share of the validation text that a window is measured on before it drops out of a race, on average."""


def share_of_pass(work: Workload, sizes: Sizes) -> float:
    """Return what the layers at `sizes` cost, without the head, as a share of a plain pass through the network as it
    came.
    """
    layers = range(sizes.num_layers)
    return sum(_flops(work, sizes, layer, w) for layer in layers for w in work.left.layer_weights(layer)) / _whole(work)


def share_of_reading(work: Workload, layer: int, consumer: Weight, spaces: Collection[Space]) -> float:
    """Return, as such a share, what leads to the features that a consumer reads.

    That is the matrices of its layer that write into `spaces` and, of one that reads heads, attention.
    """
    producers = [weight for weight in work.left.layer_weights(layer) if weight.out in spaces]
    attention = _flops(work, work.before, layer, consumer) - _flops(work, work.before, layer, consumer, context=0)
    return (sum(_flops(work, work.before, layer, weight) for weight in producers) + attention) / _whole(work)


def share_of_writing(work: Workload, layer: int, consumer: Weight) -> float:
    """Return, as such a share, what a consumer makes of the features that it reads."""
    return _flops(work, work.before, layer, consumer, context=0) / _whole(work)


def _flops(work: Workload, sizes: Sizes, layer: int, weight: Weight, *, context: int | None = None) -> int:
    context = work.seqlen if context is None else context
    return weight_flops(work.arch, work.target.original, sizes, layer, weight, context=context)


def _whole(work: Workload) -> int:
    original = work.target.original
    return predict_flops(work.arch, original, original, context=work.seqlen)


def gram(tokens: float, width: int, targets: int = 0) -> float:
    """Return the operations of `x^T x`, and of `x^T y` where there are targets, over so many tokens."""
    return 2.0 * tokens * width * (width + targets)


def regression(kept: int, targets: int, tries: int) -> float:
    """Return the operations of a ridge regression of `targets` on `kept` features, with so many lambdas tried.

    A Cholesky factor takes `kept^3 / 3`, at about half the speed of a product; `linalg/ridge.py` has the rest.
    """
    tried = tries + 1 if tries > 1 else tries
    found = tried * 2 / 3 * kept**3 + 8.0 * kept**2 * targets
    return found + (4.0 * tries * kept**2 * min(targets, COMBINATIONS) if tries > 1 else 0)


def measuring_levels(tokens: float, validation: float, layers: int) -> Operations:
    """Return what the losses of some widths of every layer take (`units/levels.py`): each runs half of the layers."""
    return Operations(COLLECTING * tokens + layers * LEVELS * min(TOKENS, validation) / 2)


def searching(work: Workload, windows: int) -> Operations:
    """Return what a search for the best of so many windows takes: a trial runs from its window on, half the layers."""
    return Operations(SEARCH_TOKENS * (1 + windows * RACED * (1 - share_of_pass(work, work.before) / 2)))
