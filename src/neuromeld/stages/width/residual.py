"""Narrow the residual stream of a live model, a layer at a time.

Without a refit this is algebra on the weights.  With one, the original and the narrow stream of every calibration
batch are carried side by side: each cut is refitted on the network that is already narrow up to there, towards what
the original network has at that cut, so that earlier errors are corrected too, and the original layer is dropped as
soon as it was used.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from neuromeld.archs.spec import Norm, Space
from neuromeld.linalg.ridge import FitReport, refit
from neuromeld.model.capture import Batch, LayerCalls, normalise, real_tokens
from neuromeld.model.layerwise import LayerInputs, change_once, moved_to_files, walk_layers
from neuromeld.model.surgery import add_linear, copy_structure, read_matrix
from neuromeld.runtime.memory import release_memory
from neuromeld.runtime.progress import track
from neuromeld.runtime.streaming import on_device
from neuromeld.stages.base import Job
from neuromeld.stages.width.consumers import narrow_consumer, narrow_norm, narrow_producer, wide_consumer
from neuromeld.stages.width.embedding import narrow_embeddings
from neuromeld.stages.width.head import diagonal_head_basis, narrow_head
from neuromeld.stages.width.width_map import Basis, shortcut
from neuromeld.stats import Cross, CrossMoments
from neuromeld.stats.split import SplitStatistic, held_out_here

_FITS = TypeAdapter(dict[str, FitReport])


@dataclass
class NarrowStream:
    """Result of narrowing: the basis of each run as it was used, and the refit of each norm by its path."""

    bases: list[Basis]
    refits: dict[str, FitReport] = field(default_factory=dict)


@torch.no_grad()
def narrow_residual(job: Job, bases: Sequence[Basis], *, refit: bool) -> NarrowStream:
    """Narrow every weight of a job's model in place; `bases[i]` holds from layer `job.after.basis_starts[i]` on.

    refit   refit on the job's data what reads the stream

    Shortcuts are attached to the layers they precede, as `shortcut`, and a head adapter to the model; the caller makes
    them run.
    """
    model, arch, journal, starts = job.model, job.arch, job.journal, list(job.after.basis_starts)
    done = NarrowStream(list(bases))
    diagonal = None
    if arch.tied and job.target.output == "stock":
        done.bases[0], diagonal = diagonal_head_basis(model, arch, bases[0])
    basis, streams = done.bases[0], _open(job, done.bases[0]) if refit else None
    with moved_to_files(journal, model):
        table = narrow_embeddings(model, arch, basis)
    with track("narrowing the residual stream", arch.num_layers, enabled=job.progress) as advance:
        for index in range(arch.num_layers):
            matrix = None
            if index in starts[1:]:
                after = done.bases[starts.index(index)]
                matrix, basis = shortcut(basis, after), after
            if streams is not None:
                streams.enter(matrix)
            done.refits |= _narrow_layer(job, index, basis, streams)
            if streams is not None:
                streams.leave()
            if matrix is not None:
                first = arch.layer_weights(index)[0]
                add_linear(model, arch.layer_path(index, "shortcut"), matrix, like=read_matrix(model, first))
            release_memory()
            advance(index + 1)
    moments = None
    if streams is not None:
        wide, narrow = (_real_tokens(calls) for calls in (streams.wide.calls, streams.calls))
        norm = model.get_submodule(arch.final_norm.path)
        moments = _cross_moments(norm, arch.final_norm, basis, wide, narrow, job.data)
    with moved_to_files(journal, model):
        fit = narrow_head(model, arch, basis, table, moments, diagonal)
    done.refits |= {} if fit is None else {arch.final_norm.path: fit}
    return done


@dataclass
class _Streams:
    """The calibration data where it enters a layer of the original network and of the narrow one.

    walk       carries the original stream, through the layers in `originals`
    wide       the layer, with the original stream
    narrow     the layer, with the narrow stream
    originals  the layer as it was, by its index
    offload    where a stream is to lie
    """

    walk: Iterator[LayerInputs]
    wide: LayerInputs
    narrow: LayerInputs
    originals: dict[int, nn.Module]
    offload: Callable[[Tensor], Tensor]

    @property
    def calls(self) -> LayerCalls:
        """The narrow stream, and how layers are called."""
        return self.narrow.calls

    def enter(self, change_of_basis: Tensor | None) -> None:
        """Keep the layer as it is, and bring the narrow stream into its basis."""
        self.originals[self.wide.index] = copy_structure(self.wide.layer)
        self.narrow = self.wide.with_stream(self.calls, self.offload)
        if change_of_basis is not None:
            self.calls.hidden = _in_basis(self.calls, change_of_basis, self.offload)

    def moments(self, norm: Norm, basis: Basis) -> tuple[Cross, Cross]:
        """Return the moments of a norm of the layer, as it is now, against what it was."""
        path = norm.path.removeprefix(self.wide.arch.layer_path(self.wide.index) + ".")
        layer, original = self.wide.layer, self.originals[self.wide.index]
        batches = self.wide.batches
        wide = (self.wide.called(b, original.get_submodule(path), original)[0] for b in range(len(batches)))
        narrow = (self.narrow.called(b, layer.get_submodule(path))[0] for b in range(len(batches)))
        return _cross_moments(layer.get_submodule(path), norm, basis, wide, narrow, batches)

    def leave(self) -> None:
        """Carry both streams past the layer, and let go of what it was."""
        self.narrow.carry(self.narrow.layer, self.offload)
        self.wide = next(self.walk, self.wide)
        self.originals.clear()


def _open(job: Job, basis: Basis) -> _Streams:
    """Return both streams where they enter the first layer, of a model that is still wide."""
    originals: dict[int, nn.Module] = {}
    offload = job.journal.offload
    walk = walk_layers(job.model, job.arch, job.data, originals=originals, offload=offload)
    wide = next(walk)
    calls = replace(wide.calls, hidden=_in_basis(wide.calls, basis.write, offload))
    return _Streams(walk, wide, wide.with_stream(calls, offload), originals, offload)


def _in_basis(calls: LayerCalls, basis: Tensor, offload: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Return a stream times a matrix."""
    return [offload(x @ basis.to(x)) for x in map(on_device, calls.hidden)]


def _real_tokens(calls: LayerCalls) -> Iterator[Tensor]:
    """Yield the stream of each batch without padding, where models compute."""
    return (real_tokens(on_device(x), batch) for x, batch in zip(calls.hidden, calls.batches, strict=True))


def _narrow_layer(job: Job, index: int, basis: Basis, streams: _Streams | None) -> dict[str, FitReport]:
    """Narrow one layer in place and, where there are streams, refit its consumers one norm after the other."""
    model, arch = job.model, job.arch
    weights, norms = arch.layer_weights(index), arch.residual_norms(index)

    def narrow() -> dict[str, FitReport]:
        consumers = [wide_consumer(model, weight) for weight in weights if weight.in_ == Space.RESIDUAL]
        for weight in weights:
            if weight.out == Space.RESIDUAL:
                narrow_producer(model, weight, basis.write)
        for consumer in consumers:
            narrow_consumer(model, consumer, basis.read)
        for norm in norms:
            narrow_norm(model, norm, basis.width)
        fits = {}
        for norm in norms if streams is not None else ():
            assert streams is not None
            found = refit(*streams.moments(norm, basis), basis.read)
            fits[norm.path] = found.fit
            for consumer in consumers:
                if consumer.weight.input_norm == norm.path:
                    narrow_consumer(model, consumer, found.matrix)
        return fits

    layer = model.get_submodule(arch.layer_path(index))
    return change_once(job.journal, f"residual-{index}", layer, narrow, _FITS)


def _cross_moments(
    module: nn.Module,
    norm: Norm,
    basis: Basis,
    wide: Iterable[Tensor],
    narrow: Iterable[Tensor],
    batches: Sequence[Batch],
) -> tuple[Cross, Cross]:
    """Return moments of `norm(s)` against `norm(x)` from the real tokens of both: to fit on, and held out."""
    sums = SplitStatistic(lambda: CrossMoments(basis.width, basis.write.shape[0]))
    for b, (x, s) in enumerate(zip(wide, narrow, strict=True)):
        sums.update(held_out_here(batches, b), normalise(s, norm, module), normalise(x, norm, module))
    fitted, held_out = sums.finalize()
    return fitted, held_out
