"""Narrow the residual stream of a live model, a layer at a time.

Without a refit this is algebra on the weights.  With one, the original and the narrow stream of every calibration
batch are carried side by side: each cut is refitted on the network that is already narrow up to there, towards what
the original network has at that cut, so that earlier errors are corrected too, and the original layer is dropped as
soon as it was used.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from neuromeld.archs.resolve import Architecture
from neuromeld.archs.spec import Norm, Space
from neuromeld.linalg.ridge import FitReport, refit
from neuromeld.model.capture import Batch, LayerCalls, normalise, real_tokens, record_calls
from neuromeld.model.layerwise import change_once, moved_to_files
from neuromeld.model.surgery import add_linear, read_matrix
from neuromeld.runtime.journal import Journal
from neuromeld.runtime.memory import release_memory
from neuromeld.runtime.progress import track
from neuromeld.stages.base import Job
from neuromeld.stages.width.consumers import narrow_consumer, narrow_norm, narrow_producer
from neuromeld.stages.width.embedding import narrow_embeddings
from neuromeld.stages.width.head import diagonal_head_basis, narrow_head
from neuromeld.stages.width.width_map import Basis, shortcut
from neuromeld.stats import Cross, CrossMoments
from neuromeld.stats.split import SplitStatistic, held_out_here

_FITS = TypeAdapter(dict[str, FitReport])


@dataclass
class Streams:
    """The calibration data at one depth of both networks, one tensor `(batch, time, width)` a batch."""

    calls: LayerCalls
    original: list[Tensor]
    narrow: list[Tensor]

    def change_basis(self, matrix: Tensor) -> None:
        self.narrow = [s @ matrix.to(s) for s in self.narrow]


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
    streams = _open(model, arch, job.data, done.bases[0]) if refit else None
    with moved_to_files(journal, model):
        table = narrow_embeddings(model, arch, done.bases[0])
    basis = done.bases[0]
    with track("narrowing the residual stream", arch.num_layers, enabled=job.progress) as advance:
        for index in range(arch.num_layers):
            matrix = None
            if index in starts[1:]:
                after = done.bases[starts.index(index)]
                matrix, basis = shortcut(basis, after), after
                if streams is not None:
                    streams.change_basis(matrix)
            done.refits |= _narrow_layer(model, arch, index, basis, streams, journal)
            if matrix is not None:
                first = arch.layer_weights(index)[0]
                add_linear(model, arch.layer_path(index, "shortcut"), matrix, like=read_matrix(model, first))
            release_memory()
            advance(index + 1)
    moments = None
    if streams is not None:
        moments = _cross_moments(model, arch.final_norm, streams.original, streams.narrow, job.data, basis)
    with moved_to_files(journal, model):
        fit = narrow_head(model, arch, basis, table, moments, diagonal)
    done.refits |= {} if fit is None else {arch.final_norm.path: fit}
    return done


def _open(model: nn.Module, arch: Architecture, batches: Sequence[Batch], basis: Basis) -> Streams:
    """Both streams where they enter the first layer."""
    calls = record_calls(model, arch, batches)
    original, calls.hidden = calls.hidden, []
    return Streams(calls, original, [x @ basis.write.to(x) for x in original])


def _narrow_layer(
    model: nn.Module, arch: Architecture, index: int, basis: Basis, streams: Streams | None, journal: Journal
) -> dict[str, FitReport]:
    """Narrow one layer in place and, where there are streams, refit its consumers and move both streams past it."""
    path = arch.layer_path(index)
    layer = model.get_submodule(path)
    original = copy.deepcopy(layer, {id(parameter): parameter for parameter in layer.parameters()})
    full = _holder(path, original)
    weights, norms = arch.layer_weights(index), arch.residual_norms(index)
    read_by_norms = _run_original(streams, original, path, index, norms) if streams is not None else {}

    def narrow() -> dict[str, FitReport]:
        for weight in weights:
            if weight.out == Space.RESIDUAL:
                narrow_producer(model, weight, basis.write)
            if weight.in_ == Space.RESIDUAL:
                narrow_consumer(model, weight, basis.read, full)
        for norm in norms:
            narrow_norm(model, norm, basis.width)
        original = _OriginalLayer(full, read_by_norms)
        return _refit_consumers(model, arch, index, basis, streams, original) if streams is not None else {}

    fits = change_once(journal, f"residual-{index}", layer, narrow, _FITS)
    if streams is not None:
        streams.narrow = [streams.calls.run(layer, index, b, s) for b, s in enumerate(streams.narrow)]
    return fits


@dataclass(frozen=True)
class _OriginalLayer:
    """A layer at full width, at its path in `module`, and what its norms read on each batch."""

    module: nn.Module
    read_by_norms: dict[str, list[Tensor]]


def _refit_consumers(
    model: nn.Module,
    arch: Architecture,
    index: int,
    basis: Basis,
    streams: Streams,
    original: "_OriginalLayer",
) -> dict[str, FitReport]:
    """Refit what reads the stream in a layer that is narrow already, in order, to what the original norms had there."""
    layer, fits = model.get_submodule(arch.layer_path(index)), {}
    for norm in arch.residual_norms(index):
        module = model.get_submodule(norm.path)
        narrow = [streams.calls.run_until(layer, index, b, s, module) for b, s in enumerate(streams.narrow)]
        moments = _cross_moments(
            model, norm, original.read_by_norms.pop(norm.path), narrow, streams.calls.batches, basis
        )
        found = refit(*moments, basis.read)
        fits[norm.path] = found.fit
        for weight in arch.layer_weights(index):
            if weight.input_norm == norm.path:
                narrow_consumer(model, weight, found.matrix, original.module)
    return fits


def _cross_moments(
    model: nn.Module,
    norm: Norm,
    original: Sequence[Tensor],
    narrow: Sequence[Tensor],
    batches: Sequence[Batch],
    basis: Basis,
) -> tuple[Cross, Cross]:
    """Moments of `norm(s)` against `norm(x)`: those to fit on, and those held out."""
    module = model.get_submodule(norm.path)
    sums = SplitStatistic(lambda: CrossMoments(basis.width, basis.write.shape[0]))
    for b, (x, s, batch) in enumerate(zip(original, narrow, batches, strict=True)):
        x, s = real_tokens(x, batch), real_tokens(s, batch)
        sums.update(held_out_here(batches, b), normalise(s, norm, module), normalise(x, norm, module))
    fitted, held_out = sums.finalize()
    return fitted, held_out


def _run_original(
    streams: Streams, layer: nn.Module, path: str, index: int, norms: Sequence[Norm]
) -> dict[str, list[Tensor]]:
    """Move the original stream past the layer; returns what each of its norms read."""
    seen: dict[str, list[Tensor]] = {norm.path: [] for norm in norms}

    def keep(inputs: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, args: inputs.append(args[0])

    handles = [
        layer.get_submodule(norm.path.removeprefix(path + ".")).register_forward_pre_hook(keep(seen[norm.path]))
        for norm in norms
    ]
    streams.original = [streams.calls.run(layer, index, b, x) for b, x in enumerate(streams.original)]
    for handle in handles:
        handle.remove()
    return seen


def _holder(path: str, module: nn.Module) -> nn.Module:
    """A module in which `module` stands at a dotted path, so that the model's own paths find it."""
    root = nn.Module()
    parent = root
    *parents, name = path.split(".")
    for part in parents:
        parent.add_module(part, nn.Module())
        parent = parent.get_submodule(part)
    parent.add_module(name, module)
    return root
