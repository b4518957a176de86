"""What a job takes of memory and disk, predicted from sizes.

A plain job holds the weights in memory; a memory-mapped one (`paging.py`) the largest thing that is worked on at once.
"""

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from neuromeld.archs import Architecture
from neuromeld.archs.sizes import Sizes, space_size
from neuromeld.archs.spec import FFN, GROUPED, HEADS
from neuromeld.data.calibration import BATCH_WINDOWS
from neuromeld.errors import UserInputError
from neuromeld.evaluate.loss import ROWS_PER_BLOCK
from neuromeld.linalg.ridge import HELD_OUT
from neuromeld.planning.recipe import Recipe
from neuromeld.stages.width.consumers import ROWS
from neuromeld.stats.base import TOKENS_PER_BLOCK
from neuromeld.units import NEEDS_FELT, NEEDS_INVERSE, Ffn, Heads

INTERPRETER_BYTES = 520 << 20
"""What Python, torch, transformers, a tokenizer and text take before a model is loaded."""


@dataclass(frozen=True)
class Footprint:
    """A job by its sizes; `runs` share a basis each, `tokens` are for calibration, `itemsize` is that of weights."""

    recipe: Recipe
    arch: Architecture
    before: Sizes
    after: Sizes
    runs: int
    tokens: int
    itemsize: int

    def peak(self, weights: int) -> int:
        """Bytes of memory, of a model of that many bytes: at most twice that to load it (docs/decisions/0013)."""
        return INTERPRETER_BYTES + weights + max(weights, self._plain_work())

    def memory_mapped_peak(self, weights: int, max_memory: int) -> int:
        """The same of a memory-mapped job; `UserInputError` where that is more than `max_memory`, or cannot be told."""
        if refusals := list(self._not_memory_mapped()):
            raise UserInputError(
                f"with its weights in memory this job takes more than --max-memory {max_memory / 1e6:,.0f}MB, and it "
                f"cannot leave them on the disk: {'; '.join(refusals)}. Leave that or --max-memory out"
            )
        peak = INTERPRETER_BYTES + max(self._memory_mapped_work())
        if peak > max_memory:
            smallest = min(peak, self.peak(weights))
            raise UserInputError(
                f"--max-memory {max_memory / 1e6:,.0f}MB is too little: weights can stay on the disk, but not what is "
                f"worked on at once; the smallest that works is --max-memory {math.ceil(smallest / 1e6)}MB"
            )
        return peak

    def disk(self, bytes_after: int, *, memory_mapped: bool) -> int:
        """Bytes beside and in the output: journal, what a memory-mapped job holds, the result of `bytes_after`."""
        return bytes_after + self._journal() + (self._held() if memory_mapped else 0)

    def _plain_work(self) -> int:
        """What the statistics and the streams of the largest stage take."""
        recipe, d, f, tokens = self.recipe, self.arch.width, self.arch.widths[FFN], self.tokens
        needed = [0]
        if recipe.width is not None:
            norms, k = len(self.arch.spec.residual_norms), self.after.hidden
            streams = tokens * 4 * ((norms + 2) * d + 2 * k) if recipe.width.refit else 0
            needed.append(streams + 4 * TOKENS_PER_BLOCK * 8 * d + 6 * 8 * d * d * self.runs)
        if recipe.ffn is not None or recipe.heads is not None:
            needed.append(tokens * 4 * 2 * d + 8 * 6 * f * (f + d) + 16 * TOKENS_PER_BLOCK * f)
        if any(stage is not None and stage.selector in NEEDS_FELT for stage in (recipe.ffn, recipe.heads)):
            in_layers = self.after.num_layers * (10 * d + 5 * f)
            predicted = self.arch.widths[self.arch.spec.head.out] if self.arch.spec.head else 0
            needed.append(recipe.calibration.seqlen * 4 * (in_layers + 4 * predicted))
        return max(needed)

    def _not_memory_mapped(self) -> Iterator[str]:
        """What of the job holds more in memory than it works on."""
        recipe = self.recipe
        if any(weight.stacked for weight in self.arch.weights):
            yield "experts are put together in memory when they are read"
        if recipe.share_ffns is not None:
            yield "share_ffns holds all layers of a window"
        if recipe.width is not None and recipe.width.refit:
            yield "the refit of the width (--refit) holds all activations at two norms"
        for stage in (recipe.ffn, recipe.heads):
            if stage is not None and stage.selector in NEEDS_FELT:
                yield f"selector={stage.selector} holds all activations of a window"

    def _memory_mapped_work(self) -> Iterator[int]:
        """What each part of the job works on at once; measured in docs/decisions/0016."""
        arch, itemsize = self.arch, self.itemsize
        head = arch.spec.head
        table = max(self._tables(arch.width), default=0)
        logits = arch.widths[head.out] if head else 0
        copies = 2 if self.recipe.searches else 1
        yield table + logits * (copies * self._batch * itemsize + 2 * ROWS_PER_BLOCK * 4)
        for stage, space, kept in (
            (self.recipe.ffn, FFN, self.after.ffn),
            (self.recipe.heads, HEADS, [space_size(arch, self.before, self.after, 0, HEADS)]),
        ):
            if stage is not None:
                yield self._layer() + self._regression(stage, arch.widths[space], max(kept))
        if self.recipe.width is not None:
            d, k = arch.width, self.after.hidden
            known = self.runs * 8 * (2 * d * d + 3 * d * k)  # statistics and bases
            rows = min(ROWS, max((arch.widths[w.in_] for w in arch.spec.embeddings), default=0))
            yield self._layer() + self._moments()
            yield known + 2 * self._layer() + 8 * arch.widths[FFN] * (d + k)
            yield known + table + table * k // d + 8 * rows * (d + k)

    def _regression(self, stage: Ffn | Heads, f: int, k: int) -> int:
        """Of `f` features, `k` are kept: sums for a fit and a test, and what is done with them (`neurons/walk.py`)."""
        d = self.arch.width
        gram, sums = 8 * f * f, 8 * f * (f + d)
        block = 2 * 8 * TOKENS_PER_BLOCK * f + self._batch * self.itemsize * (f + 2 * d)
        collecting = 3 * gram + 3 * 8 * f * d + block
        solving = 2 * 8 * k * (k + d) + 3 * 8 * k * k + 5 * 8 * k * d
        choosing = 2 * sums + 8 * f * d + (4 * gram if stage.selector in NEEDS_INVERSE else 0)
        merging = 0
        if isinstance(stage, Ffn) and stage.merge != "none":
            merging = 2 * sums + 6 * 8 * f * k + self.tokens * d * self.itemsize  # matrices (f, k), what was written
        return max(collecting, choosing, merging, solving)

    def _moments(self) -> int:
        """Second moments of each run, raw and normalised, and what a basis is found with (`width/fit.py`)."""
        d = self.arch.width
        return (2 * self.runs + 6) * 8 * d * d + 4 * 8 * TOKENS_PER_BLOCK * d

    @property
    def _batch(self) -> int:
        """Tokens that are run at once."""
        windows, seqlen = self.tokens // self.recipe.calibration.seqlen, self.recipe.calibration.seqlen
        return min(BATCH_WINDOWS, max(1, windows // HELD_OUT)) * seqlen

    def _layer(self) -> int:
        """Bytes of the largest layer."""
        return max(self._bytes(layer, self.before) for layer in range(self.after.num_layers))

    def _bytes(self, layer: int, sizes: Sizes, spaces: Collection[str] = ()) -> int:
        """Bytes of the weights of a layer; with `spaces`, of those that touch one of them."""
        return self.itemsize * sum(
            weight.repeats
            * math.prod(space_size(self.arch, self.before, sizes, layer, space) for space in (weight.in_, weight.out))
            for weight in self.arch.layer_weights(layer)
            if not spaces or weight.in_ in spaces or weight.out in spaces
        )

    def _journal(self) -> int:
        """Bytes of the layers that are narrowed, once a stage."""
        recipe, layers = self.recipe, range(self.after.num_layers)
        spaces = ({FFN} if recipe.ffn else set()) | ({*GROUPED, HEADS} if recipe.heads else set())
        wide = replace(self.after, hidden=self.before.hidden)
        narrowed = sum(self._bytes(layer, wide, spaces) for layer in layers) if spaces else 0
        return narrowed + (sum(self._bytes(layer, self.after) for layer in layers) if recipe.width else 0)

    def _held(self) -> int:
        """Bytes of the stream of all calibration data, or of the narrow tables of a vocabulary."""
        stream = (self.tokens + self._batch) * self.arch.width * self.itemsize
        neurons = self.recipe.ffn is not None or self.recipe.heads is not None
        return max(stream if neurons else 0, sum(self._tables(self.after.hidden)) if self.recipe.width else 0)

    def _tables(self, width: int) -> list[int]:
        """Bytes of each embedding, and of a head of its own, at a width of the stream."""
        arch = self.arch
        head = None if arch.tied else arch.spec.head
        entries = (arch.widths[w.in_] * arch.widths[w.out] for w in (*arch.spec.embeddings, *([head] if head else [])))
        return [count // arch.width * width * self.itemsize for count in entries]
