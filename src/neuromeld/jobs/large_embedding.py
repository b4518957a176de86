"""Say unasked how large the embedding of a model is, and what would make it smaller: rows that a text does not need."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from transformers import PreTrainedModel

from neuromeld.archs.resolve import Architecture
from neuromeld.archs.sizes import embedding_share, sizes_of
from neuromeld.checkpoint.source import ModelSource
from neuromeld.data.calibration import Calibration
from neuromeld.data.text.usage import OF_TOKENS
from neuromeld.errors import NeuromeldError
from neuromeld.modalities import reader_for
from neuromeld.model.capture import Batch
from neuromeld.planning import Budget
from neuromeld.planning.candidates import LARGE_EMBEDDING
from neuromeld.planning.largest import largest
from neuromeld.planning.plan import architecture_of, meta_model
from neuromeld.planning.recipe import Recipe, parse_recipe


def said_of_embedding(source: ModelSource, calibration: Calibration, budget: Budget | None = None) -> list[str]:
    """Say how large the embedding of a model is and how many rows the calibration data uses; nothing of a small one.

    budget   say, too, which options would meet it by the embedding alone

    No weights are read.
    """
    config = source.config()
    model = meta_model(config)
    arch = architecture_of(model)
    share = embedding_share(model, arch) if arch.spec.reads_tokens else 0.0
    if share < LARGE_EMBEDDING:
        return []
    rows = sizes_of(arch, config).vocab
    what = "the embedding is" if arch.tied or arch.spec.head is None else "embedding and head are"
    said = f"{what} {share:.0%} of the parameters"
    with suppress(NeuromeldError):  # without tokenizer or text the rest is still true
        reader = reader_for(config)
        data = reader.calibration(calibration, reader.processor(source.folder), config, calibration.tokens)
        said += f"; {data.num_tokens:,} calibration tokens use {_rows_used(data.batches):,} of {rows:,} rows"
    return [said, *(_ways(model, arch, budget, rows) if budget is not None else [])]


def _rows_used(batches: Sequence[Batch]) -> int:
    ids = torch.cat([batch[name].flatten() for batch in batches for name in OF_TOKENS if name in batch]).unique()
    return int((ids >= 0).sum())


def _ways(model: PreTrainedModel, arch: Architecture, budget: Budget, rows: int) -> list[str]:
    """Say which size of a vocabulary, and which rank, would meet the budget; nothing of what cannot."""

    def most(sizes: range, recipe: Callable[[float], Recipe]) -> float | None:
        def fits(size: float) -> bool:
            with suppress(NeuromeldError):
                return budget.share(model, recipe(size), arch) <= 1
            return False

        return largest(sizes, fits)

    def of(**stages: Any) -> Recipe:
        return parse_recipe(stages)

    size = most(range(1, rows), lambda size: of(vocabulary={"text": "wikipedia-sample", "size": int(size)}))
    rank = most(range(2, arch.width), lambda rank: of(embedding={"rank": rank}))
    ways = [f"--vocab-from TEXT --vocab-size {int(size)}"] if size else []
    ways += [f"--embedding-rank {int(rank)}, with all tokens"] if rank else []
    return [f"the budget could be met by the embedding alone: {'; or '.join(ways)}"] if ways else []
