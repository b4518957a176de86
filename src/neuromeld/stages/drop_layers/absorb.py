"""Absorb layers that are dropped: the FFN in front of a hole learns to write what the hole wrote, too.

`W = argmin sum_t |(z_t W + y_t - l_t) / |l_t||^2 + lambda |W - W_0|^2`, with `z` the hidden units of the last layer
that stays, `y` the stream there without what its FFN writes, and `l` the dense model's stream behind the hole.  Tokens
are weighted, since a few with huge norms, as the first of a text, would rule the sum (arXiv:2505.24680).
After ReplaceMe (arXiv:2505.02819), whose matrix behind the FFN is in `W_0 T`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from pydantic import TypeAdapter
from torch import Tensor, nn

from neuromeld.archs.resolve import Architecture
from neuromeld.archs.spec import Space
from neuromeld.linalg.ridge import FFN_LAMBDAS, FitReport, RidgeFit, refit
from neuromeld.model.capture import Batch, LayerCalls, real_tokens
from neuromeld.model.layerwise import change_once, walk_layers
from neuromeld.model.surgery import read_bias, read_matrix, write_bias, write_matrix
from neuromeld.runtime.journal import Journal
from neuromeld.runtime.paging import drop_pages
from neuromeld.runtime.streaming import on_device, used
from neuromeld.shapes import ACCUMULATE
from neuromeld.stages.base import Job
from neuromeld.stages.windows import Window
from neuromeld.stats import CrossMoments
from neuromeld.stats.split import SplitStatistic, held_out_here

_FIT = TypeAdapter(FitReport)

Stream = list[Tensor]
"""The residual stream at one place, `(batch, time, d)` a batch."""


@dataclass(frozen=True)
class AbsorbedLayers:
    """Layers `start` to `end`, counted through all stacks, and the fit of the FFN in front of them, `host`."""

    host: int
    start: int
    end: int
    fit: FitReport


@dataclass(frozen=True)
class Host:
    """The last layer in front of a hole, which stays."""

    model: nn.Module
    arch: Architecture
    index: int
    calls: LayerCalls

    def fit(self, entering: Stream, behind: Stream) -> RidgeFit:
        """Return the matrix of its FFN, `(f, d)` or with a last row for the bias, that makes up for the hole.

        entering  the stream that enters this layer
        behind    the dense model's behind the hole
        """
        factor = self._factor()
        initial = self._with_bias() * factor
        sums = SplitStatistic(lambda: CrossMoments(*initial.shape))
        for b, (x, y) in enumerate(zip(entering, behind, strict=True)):
            sums.update(held_out_here(self.calls.batches, b), *self._weighted(b, x, y, len(initial)))
        found = refit(*sums.finalize(), initial, FFN_LAMBDAS)
        matrix = torch.where(factor != 0, found.matrix / factor, self._with_bias())
        return RidgeFit(matrix, found.fit)

    def run(self, entering: Stream) -> Stream:
        """Return the stream that leaves this layer."""
        layer = self.model.get_submodule(self.arch.layer_path(self.index))
        return [self.calls.run(layer, self.index, b, x) for b, x in enumerate(entering)]

    def _weighted(self, batch: int, entering: Tensor, behind: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """Hidden units, with a one for the bias, and what the FFN should write, both over the norm of the stream."""
        hidden, rest = self._apart(batch, entering)
        mask = self.arch.stack(self.index).mask
        units, kept, wanted = (
            real_tokens(x, self.calls.batches[batch], mask).to(ACCUMULATE) for x in (hidden, rest, on_device(behind))
        )
        if rows > units.shape[1]:
            units = torch.cat([units, torch.ones_like(units[:, :1])], dim=1)
        norms = wanted.norm(dim=1, keepdim=True).clamp_min(torch.finfo(ACCUMULATE).tiny)
        return units / norms, (wanted - kept) / norms

    def _apart(self, batch: int, entering: Tensor) -> tuple[Tensor, Tensor]:
        """Return the hidden units of the FFN, and the stream that leaves the layer where it writes nothing."""
        seen: list[Tensor] = []

        def silence(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            seen.append(args[0])
            return torch.zeros_like(output)

        layer = self.model.get_submodule(self.arch.layer_path(self.index))
        handle = self.model.get_submodule(self.arch.consumer(self.index, Space.FFN).path).register_forward_hook(silence)
        try:
            rest = self.calls.run(layer, self.index, batch, entering)
        finally:
            handle.remove()
        return seen[0], rest

    def _with_bias(self) -> Tensor:
        weight = self.arch.consumer(self.index, Space.FFN)
        matrix, bias = read_matrix(self.model, weight), read_bias(self.model, weight)
        return (matrix if bias is None else torch.cat([matrix, bias[None]])).to(ACCUMULATE)

    def _factor(self) -> Tensor:
        """Return what the output of the FFN is multiplied by before it is added to the stream, `(d,)` or `()`."""
        stack = self.arch.stack(self.index)
        constant = getattr(self.model.config, stack.factor_key) if stack.factor_key else 1.0
        factor = torch.tensor(constant, dtype=ACCUMULATE)
        if stack.ffn_scale is not None:
            path = self.arch.layer_path(self.index, stack.ffn_scale.path)
            factor = factor * (used(self.model.get_parameter(path)).detach() + stack.ffn_scale.offset)
        return factor


@torch.no_grad()
def fit_windows(
    job: Job, batches: Sequence[Batch], lengths: Iterable[int]
) -> dict[tuple[int, int], Float[Tensor, "k d"]]:
    """Return the matrix for every window of these lengths with a layer in front, by its first layer and its length.

    All are fitted on the dense model's stream.  Layers are counted through all stacks.
    Memory: that stream at as many places as the longest window has layers, and all that is returned.
    """
    model, arch, found = job.model, job.arch, {}
    for number, depth in enumerate(arch.depths):
        first, held = arch.stack_offsets[number], dict[int, Stream]()
        if not arch.spec.stacks[number].ffn_adds:
            continue
        for index, calls in _streams(model, arch, batches, range(first, first + depth), job.journal):
            held[index] = list(calls.hidden)
            for length in lengths:
                host = index - length - 1
                if host >= first:
                    fit = Host(model, arch, host, calls).fit(held[host], held[index])
                    found[host + 1, length] = job.journal.offload(fit.matrix.to(model.dtype))
            held.pop(index - max(lengths) - 1, None)
    return found


def write_window(job: Job, fits: Mapping[tuple[int, int], Tensor], window: Window) -> None:
    """Write the matrices of `fit_windows` for a window, counted from 0 in every stack."""
    for part in job.arch.in_step(window):
        if (part.start, len(part)) in fits:
            _write(job.model, job.arch, part.start - 1, fits[part.start, len(part)])


@torch.no_grad()
def absorb(job: Job, layers: Iterable[int]) -> list[AbsorbedLayers]:
    """Refit, in place, the FFN in front of every hole that dropping `layers` will leave; the layers still stand.

    A hole is fitted on the stream of the model without those before it.  One that begins its stack has no layer in
    front, and is left alone, as those are of stacks whose FFNs do not add to the stream.
    """
    done: list[AbsorbedLayers] = []
    for number in reversed(range(len(job.arch.depths))):  # a decoder learns from what the dense encoder says
        holes = holes_of([job.arch.stack_offsets[number] + layer for layer in layers])
        if job.arch.spec.stacks[number].ffn_adds:
            done = _absorb_in_stack(job, job.arch.stack_offsets[number], holes) + done
    return done


def holes_of(layers: Iterable[int]) -> list[Window]:
    """Return the runs of adjacent layers, in order."""
    holes: list[Window] = []
    for layer in sorted(set(layers)):
        if holes and holes[-1].stop == layer:
            holes[-1] = range(holes[-1].start, layer + 1)
        else:
            holes.append(range(layer, layer + 1))
    return holes


def _absorb_in_stack(job: Job, first: int, holes: Sequence[Window]) -> list[AbsorbedLayers]:
    """Walk through the dense layers of a stack, and beside them through those that stay, on their own stream."""
    model, arch, done = job.model, job.arch, []
    stays: Stream = []
    left = {hole.stop: hole for hole in holes}
    for index, calls in _streams(model, arch, job.data, range(first, holes[-1].stop), job.journal):
        if index < max(holes[0].start, first + 1):
            stays = list(calls.hidden)
            continue
        hole = left.get(index)
        if hole is not None and hole.start > first:
            host = Host(model, arch, hole.start - 1, calls)
            done.append(_absorb_hole(job, host, hole, stays, list(calls.hidden)))
            stays = _offloaded(job, host.run(stays))
        if index < holes[-1].stop and not any(index in hole or index + 1 == hole.start for hole in holes):
            stays = _offloaded(job, Host(model, arch, index, calls).run(stays))
    return done


def _absorb_hole(job: Job, host: Host, hole: Window, entering: Stream, behind: Stream) -> AbsorbedLayers:
    def change() -> FitReport:
        found = host.fit(entering, behind)
        _write(job.model, job.arch, host.index, found.matrix)
        return found.fit

    layer = job.model.get_submodule(job.arch.layer_path(host.index))
    fit = change_once(job.journal, f"absorb-{host.index}", layer, change, _FIT)
    return AbsorbedLayers(host.index, hole.start, hole.stop - 1, fit)


def _write(model: nn.Module, arch: Architecture, layer: int, matrix: Float[Tensor, "k d"]) -> None:
    """Put the matrix of an FFN, and its bias if there is a row more, in its place."""
    weight = arch.consumer(layer, Space.FFN)
    width = len(read_matrix(model, weight))
    write_matrix(model, weight, matrix[:width])
    if len(matrix) > width:
        write_bias(model, weight, matrix[width])


def _offloaded(job: Job, stream: Stream) -> Stream:
    return [job.journal.offload(x) for x in stream]


def _streams(
    model: nn.Module, arch: Architecture, batches: Sequence[Batch], layers: Window, journal: Journal
) -> Iterator[tuple[int, LayerCalls]]:
    """Yield each layer's number and the stream that enters it, in `calls.hidden`; then what leaves the last one."""
    for inputs in walk_layers(model, arch, batches, layers=layers, offload=journal.offload):
        yield inputs.index, inputs.calls
        if journal.memory_mapped and inputs.index > layers.start:
            drop_pages(model.get_submodule(arch.layer_path(inputs.index - 1)).parameters())
    yield layers.stop, inputs.calls
