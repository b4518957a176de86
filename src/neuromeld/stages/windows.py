"""Windows of adjacent layers, and the search for the one that costs least before any tuning."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn
from transformers import PreTrainedModel

from neuromeld.archs.resolve import Architecture
from neuromeld.errors import UserInputError
from neuromeld.evaluation.loss import mean_loss
from neuromeld.model.capture import advancing
from neuromeld.model.predictions import measuring_bytes
from neuromeld.model.surgery import reversible
from neuromeld.runtime.journal import NO_JOURNAL, Journal
from neuromeld.runtime.progress import track
from neuromeld.stages.base import Job, Workload, table_bytes

Window = range
"""Adjacent layers, `range(start, end)`."""

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class TriedWindow:
    """A window, and the loss of the model in which it was treated; infinite where the loss was not finite."""

    window: Window
    loss: float


@dataclass(frozen=True)
class WindowSearch:
    """Every window that was tried, in order."""

    tried: list[TriedWindow]

    @property
    def best(self) -> TriedWindow:
        """The window of least loss, the first of equals."""
        return min(self.tried, key=lambda window: window.loss)


def windows_of(arch: Architecture, length: int, *, at_least: int = 1) -> list[Window]:
    """Return every window of `length` layers, counted from 0 in every stack.

    `UserInputError` for a length outside `at_least` to the number of layers of the shortest stack.
    """
    depth = min(arch.depths)
    if not at_least <= length <= depth:
        raise UserInputError(
            f"a window of {length} sublayers is outside {at_least} to {depth}, the number of layers of "
            "this model: choose a length in between"
        )
    return [range(start, start + length) for start in range(depth - length + 1)]


def search_windows(
    model: M,
    windows: Iterable[Window],
    treat: Callable[[Window], object],
    loss: Callable[[M], float],
    journal: Journal = NO_JOURNAL,
    step: str = "window",
) -> WindowSearch:
    """Treat each window in turn, take the loss, and put the model back, bit for bit.

    treat   changes `model` by way of `neuromeld.model.surgery`: a merge, a layer drop, a deletion
    loss    of the treated model, on validation data
    step    what the losses are called in the journal
    """
    tried = []

    def measure(window: Window) -> float:
        with reversible(model):
            treat(window)
            return loss(model)

    for window in windows:
        value = journal.once(f"{step}-{window.start}", measure, window)
        tried.append(TriedWindow(window, value if math.isfinite(value) else math.inf))
    return WindowSearch(tried)


def search_by_loss(job: Job, name: str, windows: Sequence[Window], treat: Callable[[Window], object]) -> WindowSearch:
    """Search the windows with the mean loss on the validation batches of a job.

    name   of the stage, for the progress and the journal
    """
    with track(f"choosing layers: {name}", len(windows), enabled=job.progress) as advance:

        def loss(model: PreTrainedModel) -> float:
            return mean_loss(model, job.validation)

        return search_windows(job.model, advancing(windows, advance), treat, loss, job.journal, name)


def windows_record(search: WindowSearch | None) -> list[dict[str, Any]]:
    """Return what a record keeps of a search: every window that was tried, with its loss."""
    return [span(tried.window) | {"loss": tried.loss} for tried in search.tried] if search else []


def span(window: Window) -> dict[str, int]:
    """Return the first and the last layer of a window."""
    return {"start": window.start, "end": window.stop - 1}


def loss_bytes(work: Workload) -> int:
    """Predict the memory of a memory-mapped job that takes losses: the largest table, and a chunk of logits."""
    head = work.arch.spec.head
    vocab_size = work.arch.widths[head.out] if head else 0
    table = max(table_bytes(work, work.arch.width), default=0)
    return table + measuring_bytes(vocab_size, work.batch_tokens, work.itemsize)


def no_loss_refusals(arch: Architecture) -> list[str]:
    """Refuse to choose layers by a loss that a model does not have."""
    if arch.spec.has_loss:
        return []
    return [
        f"layers of a {arch.spec.model_class} cannot be chosen by their loss: its calibration data has nothing to "
        "predict. Name them: `layers` or `window` in a recipe, --drop-layers-at, --remove-ffns-at or --share-ffns-at"
    ]
