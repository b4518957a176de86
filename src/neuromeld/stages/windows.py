"""Windows of adjacent layers, and the search for the one that costs least before any tuning."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

from neuromeld.archs.resolve import Architecture
from neuromeld.errors import UserInputError
from neuromeld.model.surgery import read_matrix, reversible
from neuromeld.runtime.journal import NO_JOURNAL, Journal

Window = range
"""Adjacent layers, `range(start, end)`."""

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Candidate:
    """A window, and the loss of the model in which it was treated; infinite where the loss was not finite."""

    window: Window
    loss: float


@dataclass(frozen=True)
class WindowSearch:
    """Every window that was tried, in order."""

    candidates: list[Candidate]

    @property
    def best(self) -> Candidate:
        """The window of least loss, the first of equals."""
        return min(self.candidates, key=lambda candidate: candidate.loss)


def windows_of(arch: Architecture, length: int, *, at_least: int = 1) -> list[Window]:
    """Every window of `length` layers, counted from 0 in every stack.

    `UserInputError` for a length outside `at_least` to the number of layers of the shortest stack.
    """
    depth = min(arch.depths)
    if not at_least <= length <= depth:
        raise UserInputError(
            f"a window of {length} sublayers is outside {at_least} to {depth}, the number of layers of "
            "this model: choose a length in between"
        )
    return [range(start, start + length) for start in range(depth - length + 1)]


def check_mergeable(model: nn.Module, arch: Architecture, window: Window) -> None:
    """`UserInputError` unless `window` is at least two adjacent layers of the model, with FF sublayers of one width."""
    layers = f"layers {window.start} to {window.stop - 1}"
    if len(window) < 2 or window.step != 1:
        raise UserInputError(f"a window of {len(window)} sublayers ({window}): merging needs at least 2 adjacent ones")
    if window.start < 0 or window.stop > arch.num_layers:
        raise UserInputError(
            f"the window of {layers} does not fit in the model, whose layers are 0 to {arch.num_layers - 1}: "
            "move it or make it shorter"
        )
    widths = {layer: read_matrix(model, arch.consumer(layer, "ffn")).shape[0] for layer in window}
    if len(set(widths.values())) > 1 or 0 in widths.values():
        listed = ", ".join(f"{width} (layer {layer})" for layer, width in widths.items())
        raise UserInputError(
            f"the FF sublayers of {layers} have widths {listed}: only those of one width, above 0, can be merged; "
            "choose another window"
        )


def search_windows(
    model: M,
    windows: Sequence[Window],
    treat: Callable[[Window], object],
    loss: Callable[[M], float],
    advance: Callable[[int], None] = lambda _: None,
    journal: Journal = NO_JOURNAL,
    step: str = "window",
) -> WindowSearch:
    """Treat each window in turn, take the loss, and put the model back, bit for bit.

    treat   changes `model` by way of `neuromeld.model.surgery`: a merge, a layer drop, a deletion
    loss    of the treated model, on validation data
    step    what the losses are called in the journal
    """
    candidates = []

    def measure(window: Window) -> float:
        with reversible(model):
            treat(window)
            return loss(model)

    for done, window in enumerate(windows, start=1):
        value = journal.once(f"{step}-{window.start}", measure, window)
        candidates.append(Candidate(window, value if math.isfinite(value) else math.inf))
        advance(done)
    return WindowSearch(candidates)
