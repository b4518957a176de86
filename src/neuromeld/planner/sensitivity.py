"""How much the loss would feel the loss of each part of a model: diagonal Fisher information of masks.

With a mask `m` on a feature `z`, `dL/dm = z dL/dz` at each token, and the loss grows by about half the expected square
of that when the feature is removed (after arXiv:2204.09656).  A whole layer is masked by what it adds to the stream.
The unit is nats a token, so scores of different layers and of different spaces are comparable.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from neuromeld.archs.resolve import Architecture
from neuromeld.archs.spec import FFN, HEADS
from neuromeld.shapes import ACCUMULATE
from neuromeld.streams import Batch


@dataclass(frozen=True)
class Information:
    """In nats a token: by layer, of each hidden neuron `(f,)`, of each attention channel `(heads,)`, of all of it."""

    ffn: list[Tensor]
    heads: list[Tensor]
    layers: list[float]


def information(
    model: nn.Module, arch: Architecture, batches: Sequence[Batch], advance: Callable[[int], None] = lambda _: None
) -> Information:
    """One forward and one backward pass over `batches`, which should be small: all activations of a batch are kept."""
    seen: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}
    sums: dict[tuple[str, int], Tensor] = {}
    total = 0
    with _hooks(model, arch, seen), _frozen(model):
        for done, batch in enumerate(batches, start=1):
            loss, tokens = _loss(model, batch)
            loss.backward()
            total += tokens
            for (space, layer), (masked, carrier) in seen.items():
                assert carrier.grad is not None
                felt = (masked * carrier.grad).to(ACCUMULATE).flatten(0, -2)
                felt = felt.sum(1) if space == "layer" else felt
                score = felt.square().sum(0) / 2
                sums[space, layer] = sums.get((space, layer), torch.zeros_like(score)) + score
            seen.clear()
            advance(done)

    def by_layer(space: str) -> list[Tensor]:
        return [sums[space, layer] / total for layer in range(arch.num_layers)]

    return Information(by_layer(FFN), by_layer(HEADS), [float(score) for score in by_layer("layer")])


def _loss(model: nn.Module, batch: Batch) -> tuple[Tensor, int]:
    """Summed negative log-likelihood of the real tokens, and their number."""
    device = next(model.parameters()).device
    ids = batch["input_ids"].to(device)
    mask = batch.get("attention_mask", torch.ones_like(ids)).to(device).bool()
    with torch.enable_grad():
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
        wanted = mask[:, 1:] & mask[:, :-1]
        loss = nn.functional.cross_entropy(logits[wanted].float(), ids[:, 1:][wanted], reduction="sum")
    return loss, int(wanted.sum())


@contextmanager
def _hooks(model: nn.Module, arch: Architecture, seen: dict[tuple[str, int], tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Keep what each mask would multiply, and the tensor whose gradient the mask's derivative is taken from."""

    def feature(space: str, layer: int) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
        def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            z = args[0] if args[0].requires_grad else args[0].detach().requires_grad_()
            z.retain_grad()
            seen[space, layer] = (z.detach(), z)
            return (z, *args[1:])

        return before

    def added(layer: int) -> Callable[..., None]:
        def after(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            entered = args[0] if args else kwargs["hidden_states"]
            left = output[0] if isinstance(output, tuple) else output
            left.retain_grad()
            seen["layer", layer] = ((left - entered).detach(), left)

        return after

    handles = []
    for layer in range(arch.num_layers):
        for space in (FFN, HEADS):
            module = model.get_submodule(arch.consumer(layer, space).path)
            handles.append(module.register_forward_pre_hook(feature(space, layer)))
        block = model.get_submodule(arch.layer_path(layer))
        handles.append(block.register_forward_hook(added(layer), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient inside."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
