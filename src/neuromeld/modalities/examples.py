"""Examples of every kind of input, as batches that a model can be called with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from neuromeld.data.text import Split
from neuromeld.model.capture import Batch


@dataclass(frozen=True, eq=False)
class Examples:
    """Part of a data source, ready for one model.

    batches     at least eight, where there are as many examples
    check_batch       one short example, to compare what two models say of it
    num_tokens  positions of the residual stream that are not padding
    sha256      of the values, in order
    """

    batches: Sequence[Batch]
    check_batch: Batch
    num_tokens: int
    source: str
    split: Split
    sha256: str


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """All of a calibration split, made into batches as they are asked for: what a model is trained on.

    batch_of  the examples with these numbers, which are below `num_examples`, as a model is called with them

    The others are as in `Examples`.
    """

    batch_of: Callable[[Sequence[int]], Batch]
    num_examples: int
    check_batch: Batch
    num_tokens: int
    source: str
    sha256: str
