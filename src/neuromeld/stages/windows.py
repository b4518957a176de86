"""Windows of adjacent layers, and the search for the one that costs least before any tuning."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from neuromeld.archs.resolve import Architecture, find_module
from neuromeld.errors import UserInputError
from neuromeld.evaluation.loss import batch_losses
from neuromeld.evaluation.mode import eval_mode
from neuromeld.evaluation.race import Loss, estimates, race
from neuromeld.model.capture import Batch
from neuromeld.model.predictions import measuring_bytes
from neuromeld.model.replay import record_layers, replaying
from neuromeld.model.surgery import Snapshot
from neuromeld.runtime.journal import NO_JOURNAL, Journal
from neuromeld.runtime.progress import Advance, track
from neuromeld.stages.base import Job, Workload, table_bytes

SEARCH_TOKENS, SEARCH_TOKENS_OF_IMAGES = 4096, 16384
"""Validation tokens that windows of layers are chosen on; all tokens of an image make one prediction."""

Window = range
"""Adjacent layers, `range(start, end)`."""


@dataclass(frozen=True)
class TriedWindow:
    """A window, and the loss of the model in which it was treated; infinite where the loss was not finite.

    batches   of validation data that it was measured on, until it could not win any more; its loss on the others is
              estimated (`evaluation/race.py`)
    """

    window: Window
    loss: float
    batches: int


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
    model: PreTrainedModel,
    arch: Architecture,
    windows: Sequence[Window],
    treat: Callable[[Window], object],
    validation: Sequence[Batch],
    journal: Journal = NO_JOURNAL,
    step: str = "window",
    advance: Advance = lambda _: None,
) -> WindowSearch:
    """Treat each window, measure the losses in a race, and put the model back, bit for bit.

    treat    changes `model` by way of `neuromeld.model.surgery`: a merge, a layer drop, a deletion; called once a
             window
    step     what the losses are called in the journal
    advance  told how many batches are done

    Memory: what each window's treatment puts in the place of parameters, and the stream of one batch at every layer.
    """
    trials = _Trials(model, arch, treat)

    def measure(number: int, running: Sequence[Window]) -> list[Loss]:
        found = journal.once(f"{step}-{number}", trials.losses, validation[number], running)
        advance(number + 1)
        return [(nats, count) for nats, count in found]

    losses = race(windows, len(validation), measure)
    means = estimates(losses)
    return WindowSearch([TriedWindow(window, means[window], len(losses[window])) for window in windows])


class _Trials:
    """Windows that are treated when they are first measured, and put into the model and out of it from then on."""

    def __init__(self, model: PreTrainedModel, arch: Architecture, treat: Callable[[Window], object]) -> None:
        self._model, self._arch, self._treat = model, arch, treat
        self._treated: dict[Window, tuple[Snapshot, int]] = {}

    @torch.no_grad()
    def losses(self, batch: Batch, windows: Sequence[Window]) -> list[Loss]:
        """Return the loss of each treated window on a batch; only the layers from the first that changed on run."""
        model, arch = self._model, self._arch
        with eval_mode(model):
            original = Snapshot(model)
            try:
                self._treated = {window: self._treated_once(window, original) for window in windows}
                end = max(first for _, first in self._treated.values())
                outputs, found = record_layers(model, arch, batch, end), []
                for treated, first in self._treated.values():
                    treated.restore()
                    with replaying(model, arch, outputs, first):
                        found += batch_losses(model, [batch])
                    original.restore()
                return found
            finally:
                original.restore()

    def _treated_once(self, window: Window, original: Snapshot) -> tuple[Snapshot, int]:
        """Return the model with the window treated, and the first layer that is not as it was."""
        if window in self._treated:
            return self._treated[window]
        paths = [self._arch.layer_path(layer) for layer in range(window.start)]
        before = [self._model.get_submodule(path) for path in paths]
        self._treat(window)
        changed, treated = original.changed(), Snapshot(self._model)
        moved = (find_module(self._model, path) is not layer for path, layer in zip(paths, before, strict=True))
        as_it_was = [not (other or changed & set(layer.modules())) for other, layer in zip(moved, before, strict=True)]
        original.restore()
        return treated, next((i for i, same in enumerate(as_it_was) if not same), window.start)


def search_by_loss(job: Job, name: str, windows: Sequence[Window], treat: Callable[[Window], object]) -> WindowSearch:
    """Search the windows with the mean loss on the validation batches of a job.

    name   of the stage, for the progress and the journal
    """
    with track(f"choosing layers: {name}", len(job.validation), enabled=job.progress) as advance:
        return search_windows(job.model, job.arch, windows, treat, job.validation, job.journal, name, advance)


def windows_record(search: WindowSearch | None) -> list[dict[str, Any]]:
    """Return what a record keeps of a search: every window that was tried, with its loss."""
    tried = search.tried if search else []
    return [span(one.window) | {"loss": one.loss, "batches": one.batches} for one in tried]


def span(window: Window) -> dict[str, int]:
    """Return the first and the last layer of a window."""
    return {"start": window.start, "end": window.stop - 1}


def loss_bytes(work: Workload) -> int:
    """Predict the memory of a memory-mapped job that takes losses: the largest table, its cast, a chunk of logits."""
    table = max(table_bytes(work, work.arch.width), default=0)
    return table + cast_and_chunk_bytes(work)


def cast_and_chunk_bytes(work: Workload) -> int:
    """Predict the memory for losses beside the weights: a cast of the head, where there is one, a chunk of logits."""
    head = work.arch.spec.head
    vocab_size = work.arch.widths[head.out] if head else 0
    cast = vocab_size * work.arch.width * torch.bfloat16.itemsize if work.casts else 0
    return cast + measuring_bytes(vocab_size, work.batch_tokens, work.itemsize)


def search_bytes(work: Workload) -> int:
    """Predict the memory of a memory-mapped job that searches: a loss, and the stream of a batch at every layer."""
    streams = work.before.num_layers * work.batch_tokens * work.before.hidden * work.itemsize
    return loss_bytes(work) + streams


def no_loss_refusals(arch: Architecture) -> list[str]:
    """Refuse to choose layers by a loss that a model does not have."""
    if arch.spec.has_loss:
        return []
    return [
        f"layers of a {arch.spec.model_class} cannot be chosen by their loss: its calibration data has nothing to "
        "predict. Name them: `layers` or `window` in a recipe, --drop-layers-at, --remove-ffns-at or --share-ffns-at"
    ]
