"""From a recipe and the statistics of a model to one basis per run of layers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neuromeld.archs.resolve import Architecture
from neuromeld.model.capture import Batch, capture_residual_reads, norm_epsilon
from neuromeld.registry import Need
from neuromeld.runtime.distributed import sum_over_ranks
from neuromeld.runtime.progress import track
from neuromeld.runtime.streaming import device_of
from neuromeld.stages.base import Job
from neuromeld.stages.width.decoders import DECODERS, Encoded
from neuromeld.stages.width.merges import MERGES, Selected
from neuromeld.stages.width.options import Width
from neuromeld.stages.width.selectors import SELECTORS, Stream
from neuromeld.stages.width.width_map import Basis, basis_of, map_rank
from neuromeld.stats import PairwiseL1, Statistic, StatisticsStore, StreamMoments, cache_key
from neuromeld.stats.base import reduce
from neuromeld.transport import TransportResult

REGULARISATION = 0.1
"""Default entropic regularisation, in median distances between neurons."""

PAIRWISE_TOKENS = 16384
"""How many tokens, over all cuts of a run, the distances between neurons are taken from."""


@dataclass(frozen=True)
class FittedRun:
    """The basis of one run of layers, the share of the stream's energy its map keeps, and the transport, if any.

    `spectrum (d,)` is that of the stream's energy, as the norms hand it on: the largest share first, in all 1.
    """

    basis: Basis
    energy_kept: float
    transport: TransportResult | None
    neurons: Tensor | None
    spectrum: Tensor


def runs_of(arch: Architecture, starts: Sequence[int]) -> list[list[str]]:
    """Return the norms whose streams share a basis, by run; the final norm belongs to the last."""
    ends = [*starts[1:], arch.num_layers]
    runs = [
        [norm.path for layer in range(start, end) for norm in arch.residual_norms(layer)]
        for start, end in zip(starts, ends, strict=True)
    ]
    runs[-1].append(arch.final_norm.path)
    return runs


def collect(
    model: nn.Module,
    arch: Architecture,
    batches: Sequence[Batch],
    starts: Sequence[int],
    width: Width,
    advance: Callable[[int], None] = lambda _: None,
) -> list[dict[str, Statistic]]:
    """Collect in one pass over `batches`, by run of layers, the statistics that the recipe's stages ask for."""
    runs = runs_of(arch, starts)
    statistics = [empty_statistics(model, arch, width) for _ in runs]
    run_of = {path: run for run, paths in enumerate(runs) for path in paths}
    total = sum_over_ranks(sum(batch["input_ids"].numel() for batch in batches))
    strides = [max(1, total * len(paths) // PAIRWISE_TOKENS) for paths in runs]

    def on_activation(path: str, x: Tensor) -> None:
        run = run_of[path]
        for name, statistic in statistics[run].items():
            statistic.update(x[:: strides[run]] if name == "pairwise" else x)

    capture_residual_reads(model, arch, batches, on_activation, advance)
    reduce(*(statistic for found in statistics for statistic in found.values()))
    return statistics


def empty_statistics(model: nn.Module, arch: Architecture, width: Width) -> dict[str, Statistic]:
    """Return the statistics that a recipe's stages ask for; what they do not need is not computed."""
    eps = norm_epsilon(model.get_submodule(arch.final_norm.path))
    moments = StreamMoments(arch.width, centre=arch.spec.kind == "layer", eps=eps)
    return {"moments": moments} | (
        {"pairwise": PairwiseL1(arch.width)} if Need.DISTANCES in MERGES[width.merge].needs else {}
    )


def stream_of(statistics: Mapping[str, Statistic], width: Width, seed: int) -> Stream:
    """Return what selectors see of one run of layers."""
    moments_statistic = statistics["moments"]
    assert isinstance(moments_statistic, StreamMoments)
    moments = moments_statistic.finalize()
    second_moment = moments.normalised_second_moment if width.weighting == "normalised" else moments.second_moment
    return Stream(moments, second_moment, seed)


def fit_run(statistics: Mapping[str, Statistic], stream: Stream, arch: Architecture, width: Width, k: int) -> FittedRun:
    """Selector, merge and decoder of one run of layers, in that order."""
    kind, moments = arch.spec.kind, stream.moments
    distances = None
    if "pairwise" in statistics:
        pairwise = statistics["pairwise"]
        assert isinstance(pairwise, PairwiseL1)
        distances = pairwise.finalize()
    merger = MERGES[width.merge]
    rank = k if merger.spans_mean else map_rank(k, kind)
    selection = SELECTORS[width.selector](stream, rank)
    reg = REGULARISATION if width.regularisation is None else width.regularisation
    merge = merger(Selected(selection, kind, distances, reg))
    width_map = DECODERS[width.decoder](Encoded(merge, moments.normalised_second_moment))
    basis = basis_of(width_map, kind)
    energy = moments.normalised_second_moment
    lost = torch.eye(arch.width, dtype=energy.dtype, device=energy.device) - width_map.encode @ width_map.decode
    kept = 1 - float((lost.T @ energy @ lost).trace() / energy.trace())
    eigenvalues = torch.linalg.eigvalsh(energy.float()).clamp(min=0).flip(0)  # float32 is enough to draw
    return FittedRun(basis, kept, merge.transport, selection.neurons, eigenvalues / eigenvalues.sum())


def stored_statistics(job: Job, width: Width, starts: Sequence[int]) -> list[dict[str, Statistic]]:
    """Return the statistics of each run of layers: from the cache or the journal where they are there, else collected.

    starts   first layer of each run
    """
    model, arch = job.model, job.arch
    folder = None if job.cache is not None else job.journal.folder
    store = StatisticsStore(folder) if job.cache is not None or folder is not None else None
    of = job.cache if job.cache is not None else {"part": job.journal.part}
    key = cache_key(**of, starts=list(starts), names=list(empty_statistics(model, arch, width)))
    stored = store.load(key) if store else None
    if stored is not None:
        statistics = [empty_statistics(model, arch, width) for _ in starts]
        for run, found in enumerate(statistics):
            for name, statistic in found.items():
                statistic.load_state(stored[f"{run}.{name}"], device_of(model))
        return statistics
    with track("collecting statistics", len(job.data), enabled=job.progress) as advance:
        statistics = collect(model, arch, job.data, starts, width, advance)
    if store:
        states = {f"{run}.{name}": s.state() for run, found in enumerate(statistics) for name, s in found.items()}
        store.save(key, states)
    return statistics
