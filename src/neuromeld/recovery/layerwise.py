"""Train a compressed model a layer at a time: each learns to write the stream that the original has behind it.

`min mean_t |y_t - l_t|^2 / |l_t|^2`, with `y` the stream that leaves the layer, which the layers trained before it have
made, and `l` the original's at the same place.  Gradients and moments of one layer are in memory at a time, and no
logits at all.  A token counts as much as any other, though a few have huge norms (docs/decisions/0031).
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from transformers import PreTrainedModel

from neuromeld.archs.resolve import Architecture
from neuromeld.errors import NumericsError, UserInputError
from neuromeld.model.capture import Batch, real_tokens, record_calls
from neuromeld.model.layerwise import LayerInputs, change_once, walk_layers
from neuromeld.model.surgery import load_parameters
from neuromeld.recovery.resume import LAYERWISE
from neuromeld.runtime.journal import Journal
from neuromeld.runtime.paging import drop_pages
from neuromeld.stats.split import divided

WARMUP = 0.1
"""Share of the steps in which the learning rate rises; in the rest it falls to 0 along a cosine."""

Stream = Sequence[Tensor]
"""The residual stream at one place, `(batch, time, d)` a batch."""


@dataclass(frozen=True)
class TrainedLayer:
    """Error of a layer on held-out batches, over the square of what it should write; it stays as it was if that is
    less.
    """

    layer: int
    error_before: float
    error_after: float


_TRAINED = TypeAdapter(TrainedLayer)


@dataclass(frozen=True)
class LayerwiseTraining:
    """Hold what layers are trained with.

    original  the model that was compressed, and `whole` its architecture
    ends      of each layer of `model`, the last layer of the original that it stands for
    batches   every eighth is held out; each of the others makes a step
    clip      largest norm of the gradient
    """

    model: PreTrainedModel
    original: PreTrainedModel
    whole: Architecture
    ends: Sequence[int]
    batches: Sequence[Batch]
    learning_rate: float
    clip: float
    journal: Journal

    def run(self, advance: Callable[[int], None]) -> list[TrainedLayer]:
        """Train all layers in place, from the first to the last; parameters that layers share stay as they are."""
        arch = self.whole.with_depths(depths_of(self.model, self.whole))
        if done := self._recalled(arch):
            return done
        shared = _shared(self.model, arch)
        behind = _streams_behind(self.original, self.whole, self.batches, self.ends, self.journal.offload)
        walk = walk_layers(self.model, arch, self.batches, offload=self.journal.offload)
        for inputs, wanted in zip(walk, behind, strict=True):
            step = _Step(self, inputs, wanted)
            free = [name for name, value in inputs.layer.named_parameters() if value not in shared]

            def change(step: _Step = step, free: list[str] = free) -> TrainedLayer:
                return step.train(free)

            done.append(change_once(self.journal, _step_name(inputs.index), inputs.layer, change, _TRAINED))
            advance(len(done))
        return done

    def _recalled(self, arch: Architecture) -> list[TrainedLayer]:
        """Put what the journal has in its place where it has all layers, and return what is known of them."""
        entries = []
        for index in range(arch.num_layers):
            entry = self.journal.read(_step_name(index))
            if entry is None:
                return []
            entries.append(entry)
        for index, entry in enumerate(entries):
            load_parameters(self.model.get_submodule(arch.layer_path(index)), entry.tensors)
        return [_TRAINED.validate_python(entry.facts) for entry in entries]


@dataclass(frozen=True)
class _Step:
    """One layer, the stream that enters it, and the one that should leave it."""

    job: LayerwiseTraining
    inputs: LayerInputs
    wanted: Stream

    def train(self, free: Sequence[str]) -> TrainedLayer:
        """Train these parameters of the layer, or put the old ones back."""
        layer, job = self.inputs.layer, self.job
        fitted, held_out = divided(len(job.batches))
        before, old = self._held_out(held_out), {name: layer.get_parameter(name) for name in free}
        load_parameters(layer, {name: value.detach().clone() for name, value in old.items()})
        trained = [layer.get_parameter(name).requires_grad_() for name in free]
        optimizer = torch.optim.AdamW(trained, lr=job.learning_rate, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, len(fitted)))
        for b in _shuffled(fitted, self.inputs.index):
            with torch.enable_grad():
                loss = self._error(b)
                optimizer.zero_grad()
                loss.backward()
            nn.utils.clip_grad_norm_(trained, job.clip)
            optimizer.step()
            schedule.step()
        optimizer.zero_grad()
        after = self._held_out(held_out)
        if not after < before:
            load_parameters(layer, old)
        return TrainedLayer(self.inputs.index, before, after)

    def _held_out(self, batches: Sequence[int]) -> float:
        with torch.no_grad():
            found = sum(float(self._error(b)) for b in batches) / len(batches)
        if not math.isfinite(found):
            raise NumericsError(
                f"the stream behind layer {self.inputs.index} is not finite; nothing was written. Lower "
                f"--layerwise-rate (now {self.job.learning_rate:g})"
            )
        return found

    def _error(self, batch: int) -> Tensor:
        """Return the mean square of what the stream lacks, over that of what it should be, of a token."""
        inputs = self.inputs
        found = inputs.calls.differentiable(inputs.layer, inputs.index, batch, inputs.calls.hidden[batch])
        if found.shape != self.wanted[batch].shape:
            raise UserInputError(
                f"layers follow those of the original, and their stream is {found.shape[-1]} wide where the original's "
                f"has {self.wanted[batch].shape[-1]}: leave out --layerwise-tokens"
            )
        mask = self.job.whole.stack(self.job.ends[inputs.index]).mask
        y, target = (real_tokens(x, inputs.batches[batch], mask).float() for x in (found, self.wanted[batch]))
        if self.job.journal.memory_mapped:
            drop_pages([self.wanted[batch]])
        tiny = torch.finfo(target.dtype).tiny
        return ((y - target).square().sum(-1) / target.square().sum(-1).clamp_min(tiny)).mean()


def depths_of(model: nn.Module, whole: Architecture) -> tuple[int, ...]:
    """Return the number of layers in each stack of a model that was made of one of this architecture."""
    return tuple(len(list(model.get_submodule(stack.layers).children())) for stack in whole.spec.stacks)


def ends_of(whole: Architecture, depths: Sequence[int], dropped: Iterable[int]) -> list[int]:
    """Return, of each layer that stays, the last layer of the original that it stands for: itself or one behind it.

    dropped   counted from 0 in every stack.  Raises `UserInputError` where `depths` does not agree with it.
    """
    gone, ends = set(dropped), list[int]()
    for first, whole_depth, depth in zip(whole.stack_offsets, whole.depths, depths, strict=True):
        kept = [layer for layer in range(whole_depth) if layer not in gone]
        if len(kept) != depth:
            raise UserInputError(
                f"the model has {depth} layers where the original has {whole_depth}, and its record names "
                f"{len(gone)} that were dropped: leave out --layerwise-tokens, or name the model that it was made of"
            )
        ends += [first + following - 1 for following in [*kept[1:], whole_depth]]
    return ends


@torch.no_grad()
def _streams_behind(
    model: nn.Module,
    arch: Architecture,
    batches: Sequence[Batch],
    ends: Sequence[int],
    offload: Callable[[Tensor], Tensor],
) -> Iterator[Stream]:
    """Yield the stream behind each of these layers, which lies where `offload` puts it."""
    for index in range(arch.num_layers):
        if index in arch.stack_offsets:
            calls = record_calls(model, arch, batches, arch.stack_offsets.index(index), offload)
        layer = model.get_submodule(arch.layer_path(index))
        for b, x in enumerate(calls.hidden):
            calls.hidden[b] = offload(calls.run(layer, index, b, x))
        if index in ends:
            yield calls.hidden


def _shared(model: nn.Module, arch: Architecture) -> set[nn.Parameter]:
    """Return the parameters that are in more than one layer."""
    layers = (model.get_submodule(arch.layer_path(index)) for index in range(arch.num_layers))
    counts = Counter(parameter for layer in layers for parameter in layer.parameters())
    return {parameter for parameter, count in counts.items() if count > 1}


def _step_name(layer: int) -> str:
    return f"{LAYERWISE}{layer}"


def _shuffled(batches: Sequence[int], seed: int) -> list[int]:
    order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(seed))
    return [batches[b] for b in order.tolist()]


def _rate(step: int, steps: int) -> float:
    """Return the share of the peak learning rate at a step."""
    rise = min(1.0, (step + 1) / max(1, round(WARMUP * steps)))
    return rise * (1 + math.cos(math.pi * step / steps)) / 2
