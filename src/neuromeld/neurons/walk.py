"""Narrow the inner spaces of the layers of a live model, one sublayer after the other.

Every layer sees the network that is already narrow before it.  A sublayer's consumer (the matrix that writes back into
the residual stream) is refitted on the neurons that are left, so that it writes what the whole sublayer would have
written, or what the original network has there.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from neuromeld.archs.resolve import Architecture
from neuromeld.archs.spec import Weight
from neuromeld.neurons.options import Neurons
from neuromeld.neurons.selectors import SELECTORS
from neuromeld.regression import Refit, is_held_out, refit
from neuromeld.shapes import ACCUMULATE
from neuromeld.stats import FeatureMoments, Features
from neuromeld.streams import Batch, LayerCalls, real_tokens, record_calls
from neuromeld.surgery import read_bias, read_matrix, select_outputs, write_bias, write_matrix

LAMBDAS = (1e-2, 1e-1, 3e-1, 1.0)


@dataclass(frozen=True)
class Narrowing:
    """What was done to one space of one layer; errors are relative mean squares on held-out tokens."""

    layer: int
    before: int
    after: int
    kept: tuple[int, ...]
    fit: Refit


@torch.no_grad()
def narrow_neurons(
    model: nn.Module,
    arch: Architecture,
    widths: Sequence[int],
    options: Neurons,
    batches: Sequence[Batch],
    *,
    seed: int,
    advance: Callable[[int], None] = lambda _: None,
    weigh: bool = False,
    scores=None,
) -> list[Narrowing]:
    calls = record_calls(model, arch, batches)
    stream = calls.hidden
    original = list(stream) if options.target == "original" else None
    done = []
    for index in range(arch.num_layers):
        layer = model.get_submodule(arch.layer_path(index))
        consumer = arch.consumer(index, "ffn")
        module = model.get_submodule(consumer.path)
        matrix, bias = read_matrix(model, consumer).to(ACCUMULATE), read_bias(model, consumer)
        sums = [FeatureMoments(*matrix.shape) for _ in range(2)]
        for b, x in enumerate(stream):
            seen = []
            handle = module.register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
            full = calls.run(layer, index, b, x)
            handle.remove()
            z, y = seen[0]
            if bias is not None:
                y = y - bias
            if original is not None:
                original[b] = calls.run(layer, index, b, original[b])
                y = original[b] - full + y
            z, y = real_tokens(z, batches[b]), real_tokens(y, batches[b])
            if weigh:
                rows = real_tokens(full, batches[b])
                w = rows.square().mean(-1, keepdim=True).rsqrt()
                z, y = z * w, y * w
            sums[is_held_out(b, len(batches))].update(z, y)
        fitted, held = sums[0].finalize(), sums[1].finalize()
        score = scores[index] if scores is not None else SELECTORS[options.selector](fitted, matrix, seed)
        kept = torch.topk(score, widths[index]).indices.sort().values
        initial = matrix[kept]
        result = refit(
            fitted.regression(kept, centre=bias is not None), held.regression(kept, centre=bias is not None), initial, LAMBDAS if options.compensate == "ridge" else ()
        )
        for producer in arch.producers(index, "ffn"):
            select_outputs(model, producer, kept)
        write_matrix(model, consumer, result.matrix)
        if bias is not None and options.compensate != "none":
            write_bias(model, consumer, bias.to(ACCUMULATE) + fitted.target_mean - fitted.mean[kept] @ result.matrix)
        done.append(Narrowing(index, len(matrix), len(kept), tuple(kept.tolist()), result))
        for b, x in enumerate(stream):
            stream[b] = calls.run(layer, index, b, x)
        advance(index + 1)
    return done
