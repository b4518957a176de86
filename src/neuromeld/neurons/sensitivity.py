"""How much the loss would feel the loss of each hidden feature: diagonal Fisher information of masks.

With a mask `m_j = 1` on feature `z_j`, `dL/dm_j = z_j dL/dz_j` at each token, and the loss grows by about half the
expected square of that when the feature is removed (after arXiv:2204.09656).  The unit is nats, so scores of different
layers and of different spaces are comparable.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neuromeld.archs.resolve import Architecture
from neuromeld.shapes import ACCUMULATE
from neuromeld.streams import Batch


def mask_information(
    model: nn.Module,
    arch: Architecture,
    batches: Sequence[Batch],
    spaces: Sequence[str] = ("ffn", "heads"),
    advance: Callable[[int], None] = lambda _: None,
) -> dict[str, list[Tensor]]:
    """For each space and layer, `E[(z_j dL/dz_j)^2] / 2` over the tokens that are predicted, `(width,)`."""
    scores: dict[str, list[Tensor]] = {}
    kept: dict[tuple[str, int], Tensor] = {}

    def keep(space: str, layer: int) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
        def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            z = args[0] if args[0].requires_grad else args[0].detach().requires_grad_()
            z.retain_grad()
            kept[space, layer] = z
            return (z, *args[1:])

        return before

    handles = []
    for space in spaces:
        weights = [arch.consumer(layer, space) for layer in range(arch.num_layers)]
        scores[space] = [torch.zeros(arch.widths[space], dtype=ACCUMULATE) for _ in weights]
        handles += [
            model.get_submodule(weight.path).register_forward_pre_hook(keep(space, layer))
            for layer, weight in enumerate(weights)
        ]
    total = 0
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    model.requires_grad_(False)
    try:
        for done, batch in enumerate(batches, start=1):
            ids = batch["input_ids"]
            mask = batch.get("attention_mask", torch.ones_like(ids)).bool()
            with torch.enable_grad():
                logits = model(**batch, use_cache=False).logits[:, :-1]
                wanted = mask[:, 1:] & mask[:, :-1]
                loss = nn.functional.cross_entropy(logits[wanted].float(), ids[:, 1:][wanted], reduction="sum")
                loss.backward()
            total += int(wanted.sum())
            for (space, layer), z in kept.items():
                assert z.grad is not None
                scores[space][layer] += (z.detach() * z.grad).to(ACCUMULATE).square().flatten(0, -2).sum(0) / 2
            kept.clear()
            advance(done)
    finally:
        for handle in handles:
            handle.remove()
        for name, p in model.named_parameters():
            p.requires_grad_(flags[name])
    return {space: [score / total for score in found] for space, found in scores.items()}
