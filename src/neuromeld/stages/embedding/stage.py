"""The stage `embedding`: an embedding of lower rank."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor
from transformers import PretrainedConfig

from neuromeld.archs.resolve import Architecture
from neuromeld.archs.sizes import Sizes
from neuromeld.archs.spec import ArchSpec, Space
from neuromeld.drawing.section import Record, item
from neuromeld.errors import UserInputError
from neuromeld.linalg.low_rank import LowRank, weighted_low_rank
from neuromeld.model.capture import capture_inputs
from neuromeld.model.native.modeling import attach_table_hooks
from neuromeld.model.surgery import add_linear, read_matrix, tie, write_matrix
from neuromeld.runtime.distributed import sum_tensor
from neuromeld.runtime.progress import track
from neuromeld.shapes import ACCUMULATE
from neuromeld.stages.base import Cost, Job, Operations, Stage, Target, Workload, table_bytes
from neuromeld.stages.embedding.apart import narrow_tables
from neuromeld.stages.embedding.options import EmbeddingOptions
from neuromeld.stages.operations import EIGENVECTORS, gram, share_of_pass
from neuromeld.stats.base import reduce
from neuromeld.stats.second_moment import SecondMoment

UNSEEN = 0.01
"""Uses that are added to those of each token on the calibration data."""


@dataclass(frozen=True)
class FactoredEmbedding:
    """The rank, of which width, and the weighted share of the squares that it misses, of the head if that is apart."""

    rank: int
    width: int
    lost: float
    lost_of_head: float | None


class EmbeddingStage(Stage[EmbeddingOptions, FactoredEmbedding]):
    """Factor the embedding, and the head, which shares the narrow table where it is tied."""

    name = "embedding"
    title = "narrowing the embedding"
    prefix = "embedding"
    Options = EmbeddingOptions

    def unavailable(self, spec: ArchSpec) -> str | None:
        """Say that it takes one stack with an embedding and a head, and what else the architecture forbids."""
        if self.name in spec.refusals:
            return f"the embedding cannot be narrowed in {spec.model_type} models: {spec.refusals[self.name]}"
        if spec.tables_apart is not None:
            return None
        if not spec.reads_tokens or spec.head is None:
            return f"the embedding cannot be narrowed in {spec.model_type} models: they have no vocabulary with a head"
        if len(spec.stacks) > 1:
            return f"the embedding cannot be narrowed in {spec.model_type} models: several modules read it"
        return None

    def resize(self, sizes: Sizes, options: EmbeddingOptions, target: Target) -> Sizes:
        """Return the sizes with the rank of the embedding."""
        arch = target.arch
        width = sizes.hidden if arch.spec.tables_apart is None else arch.widths[Space.EMBEDDING]
        rank = options.of(width)
        if rank > width:
            raise UserInputError(f"embedding rank={rank} is more than the width of {width}")
        if arch.spec.tables_apart is not None and not 2 <= rank < min(width, arch.width):
            raise UserInputError(
                f"embedding rank={rank}: of tables that a norm reads it is at least 2, and less than their width of "
                f"{width} and that of the stream, {arch.width}"
            )
        return replace(sizes, embedding_rank=rank)

    def native_reasons(self, options: EmbeddingOptions, target: Target, after: Sizes) -> list[str]:  # noqa: ARG002
        """Say what a stock config has no place for."""
        spec = target.arch.spec
        if spec.tables_apart or (spec.narrow_embedding and after.embedding_rank < after.hidden):
            return []
        return ["a stock model has no place for the matrices between a narrow embedding and the stream"]

    def unknowns(self, options: EmbeddingOptions, work: Workload) -> int:  # noqa: ARG002
        """Return the width whose second moment is taken."""
        return work.after.hidden

    def cost(self, options: EmbeddingOptions, work: Workload) -> Cost:
        """Count what the narrow tables save, and the two matrices; predict a table in float64, and moments."""
        if work.arch.spec.tables_apart is not None:
            return _cost_of_tables_apart(work, work.after.embedding_rank)
        tokens, d, tied = work.after.vocab, work.after.hidden, work.arch.tied
        rank = options.of(d)
        saved, between = tokens * (d - rank), rank * d
        table = max(table_bytes(work, work.before.hidden), default=0)
        return Cost(
            parameters=2 * between - saved * (1 if tied else 2),
            matrices=2 * between - saved,
            working_bytes=2 * table + 6 * 8 * d * d,
            mapped_bytes=2 * table + 6 * 8 * d * d,
        )

    def operations(self, options: EmbeddingOptions, work: Workload) -> Operations:  # noqa: ARG002
        """Predict the moment of what the head reads, and the directions of the table in it."""
        if work.arch.spec.tables_apart is not None:
            e, d = work.arch.widths[Space.EMBEDDING], work.arch.width
            sums = gram(work.tokens, e) + gram(work.tokens, work.after.embedding_rank, d)
            return Operations(0.0, sums, 2 * EIGENVECTORS * d**3)
        d, tables = work.after.hidden, 1 if work.arch.tied else 2
        passes = share_of_pass(work, work.before)
        directions = 2 * EIGENVECTORS * d**3 + 2 * gram(work.after.vocab, d)
        return Operations(work.tokens * passes, gram(work.tokens, d), tables * directions)

    def run(self, job: Job, options: EmbeddingOptions) -> FactoredEmbedding:  # noqa: ARG002
        """Factor by the calibration data: how often a token occurs, and what the head reads."""
        model, arch, rank = job.model, job.arch, job.after.embedding_rank
        if arch.spec.tables_apart is not None:
            return FactoredEmbedding(rank, arch.widths[Space.EMBEDDING], narrow_tables(job, rank), None)
        uses, moment = _statistics(job)
        embedding, head = arch.spec.embeddings[0], arch.head
        table = read_matrix(model, embedding)
        width = table.shape[1]
        first = weighted_low_rank(table, uses, moment if arch.tied else None, rank)
        second = None if arch.tied else weighted_low_rank(read_matrix(model, head).T, uses, moment, rank)
        for_head: LowRank = second or first
        write_matrix(model, embedding, first.left)
        if second is None:
            tie(model, head.path, to=embedding.path)
        else:
            write_matrix(model, head, second.left.T)
        stock = arch.spec.narrow_embedding if job.target.output == "stock" else None
        up, down = (stock.up, stock.down) if stock else (f"{embedding.path}.up", f"{head.path}.down")
        add_linear(model, up, first.right, like=table)
        add_linear(model, down, for_head.right.T, like=table)
        if stock is None:
            attach_table_hooks(model, [embedding.path, head.path])
        return FactoredEmbedding(rank, width, first.lost, None if second is None else second.lost)

    def write_config(self, config: PretrainedConfig, target: Target, after: Sizes) -> None:
        """Set the width of the embedding."""
        if target.arch.spec.narrow_embedding is not None:
            setattr(config, target.arch.spec.narrow_embedding.key, after.embedding_rank)

    def record(self, result: FactoredEmbedding) -> dict[str, Any]:
        """Return the rank, and what it misses."""
        found = {"rank": result.rank, "width": result.width, "lost": result.lost}
        return {"embedding": found | ({} if result.lost_of_head is None else {"lost_of_head": result.lost_of_head})}

    def sentences(self, record: Record) -> list[Markup]:
        """Say how narrow the table is."""
        found = record.get("embedding")
        if not found:
            return []
        text = "The embedding is a table of width {} in the place of {}; it misses {} of its weighted squares."
        return [item(text, found["rank"], found["width"], f"{found['lost']:.2%}")]


def _cost_of_tables_apart(work: Workload, rank: int) -> Cost:
    """Count what narrow tables and their norm save, and the map behind them, which may not have been there."""
    arch, d, e = work.arch, work.arch.width, work.arch.widths[Space.EMBEDDING]
    rows = work.after.vocab + sum(arch.widths[table.in_] for table in arch.spec.embeddings if table.in_ != Space.VOCAB)
    apart = arch.spec.tables_apart
    had = d if apart is not None and (apart.always or e != d) else 0
    table = rows * e * work.itemsize
    return Cost(
        parameters=(rank + 1) * d - (e + 1) * had - (rows + 2) * (e - rank),
        matrices=rank * d - e * had,
        working_bytes=2 * table,
        mapped_bytes=2 * table,
    )


def _statistics(job: Job) -> tuple[Float[Tensor, " v"], Float[Tensor, "d d"]]:
    """Return the uses of each token, with a little for all, and the second moment of what the head reads."""
    arch: Architecture = job.arch
    head = arch.head.path
    moment = SecondMoment(read_matrix(job.model, arch.head).shape[0])
    uses = torch.zeros(job.before.vocab, dtype=ACCUMULATE)
    for batch in job.data:
        ids = batch["input_ids"]
        mask = batch.get("attention_mask")
        ids = ids.flatten() if mask is None else ids[mask.bool()]
        uses += torch.bincount(ids.cpu(), minlength=len(uses))
    with track("what the head reads", len(job.data), enabled=job.progress) as advance:
        capture_inputs(job.model, arch, [head], job.data, lambda _, x: moment.update(x), advance)
    reduce(moment)
    uses = sum_tensor(uses)
    return uses + UNSEEN, moment.finalize()
