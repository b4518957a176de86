"""What is narrowed, at work on the calibration data: attention or an FFN, or one of the experts of a mixture."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from neuromeld.archs.resolve import Architecture
from neuromeld.archs.spec import FFN, RESIDUAL, Weight
from neuromeld.linalg.ridge import is_held_out
from neuromeld.model.capture import LayerCalls, real_tokens
from neuromeld.model.surgery import read_matrix, write_matrix
from neuromeld.runtime.distributed import global_index
from neuromeld.shapes import ACCUMULATE
from neuromeld.stats import Features
from neuromeld.units.selectors import SELECTORS


@dataclass(frozen=True)
class Sublayer:
    """One sublayer; `stream` is what enters its layer, a tensor a batch.

    taylor  how much the loss feels each feature, `(f,)`; None where the selector does not ask
    """

    model: nn.Module
    arch: Architecture
    calls: LayerCalls
    stream: list[Tensor]
    layer: int
    consumer: Weight
    taylor: Tensor | None = None

    def score(self, selector: str, features: Features, seed: int) -> Tensor:
        """What the selector thinks of each feature, `(f,)`."""
        matrix = read_matrix(self.model, self.consumer).to(ACCUMULATE)
        return SELECTORS[selector](features, matrix, self.taylor, seed)

    @property
    def num_batches(self) -> int:
        return len(self.stream)

    def is_held_out(self, batch: int) -> bool:
        """Whether a batch is not to be fitted on."""
        return is_held_out(*global_index(self.calls.batches, batch))

    @property
    def producers(self) -> tuple[Weight, ...]:
        """What writes the hidden neurons of an FFN."""
        return self.arch.producers(self.layer, FFN)

    def features(self, batch: int) -> Tensor:
        """What the consumer reads, `(n, f)`."""
        (z,) = self.inputs(batch, self.consumer.path)
        return z

    def inputs(self, batch: int, path: str) -> tuple[Tensor, ...]:
        """What the module at `path`, in this layer, is called with, real tokens only."""
        layer, module = (self.model.get_submodule(p) for p in (self.arch.layer_path(self.layer), path))
        called = self.calls.call_of(layer, self.layer, batch, self.stream[batch], module)
        mask = self.arch.stack(self.layer).mask
        return tuple(real_tokens(x, self.calls.batches[batch], mask) for x in called)


@dataclass(frozen=True)
class Expert:
    """One expert of a mixture, as an FFN of its own.

    model       holds its matrices, as `gate_up` and `down`
    activation  stands on what the gate writes
    routed      tokens `(n, d)` and the expert's share in what becomes of each `(n, 1)`, a pair a batch
    """

    model: nn.Module
    layer: int
    number: int
    activation: Callable[[Tensor], Tensor]
    routed: list[tuple[Tensor, Tensor]]

    consumer = Weight("down", in_=FFN, out=RESIDUAL)
    producers = (Weight("gate_up", in_=RESIDUAL, out=FFN, repeats=2),)

    def score(self, selector: str, features: Features, seed: int) -> Tensor:
        """What the selector thinks of each feature, `(f,)`."""
        return SELECTORS[selector](features, read_matrix(self.model, self.consumer).to(ACCUMULATE), None, seed)

    @property
    def num_batches(self) -> int:
        return len(self.routed)

    def is_held_out(self, batch: int) -> bool:
        """Whether a batch is not to be fitted on."""
        return is_held_out(batch, len(self.routed))

    def features(self, batch: int) -> Tensor:
        """What the consumer reads, times the expert's share, `(n, f)`."""
        x, share = self.routed[batch]
        gate, up = (x @ read_matrix(self.model, self.producers[0])).chunk(2, dim=-1)
        return self.activation(gate) * up * share


def experts_of(sublayer: Sublayer) -> list[Expert]:
    """The experts of a sublayer, each with the tokens that are sent to it."""
    (producer,), consumer = sublayer.producers, sublayer.consumer
    called = [sublayer.inputs(batch, consumer.path) for batch in range(sublayer.num_batches)]
    matrices = zip(*(read_matrix(sublayer.model, weight) for weight in (producer, consumer)), strict=True)
    activation: Any = sublayer.model.get_submodule(consumer.path).act_fn
    return [
        Expert(
            _ffn(gate_up, down), sublayer.layer, number, activation, [_routed_to(number, *inputs) for inputs in called]
        )
        for number, (gate_up, down) in enumerate(matrices)
    ]


def write_experts(sublayer: Sublayer, experts: list[Expert]) -> None:
    """Put the matrices of all experts back."""
    (producer,), (own,) = sublayer.producers, Expert.producers
    for weight, part in ((producer, own), (sublayer.consumer, Expert.consumer)):
        write_matrix(sublayer.model, weight, torch.stack([read_matrix(expert.model, part) for expert in experts]))


def _routed_to(number: int, x: Tensor, chosen: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    share = (shares * (chosen == number)).sum(1, keepdim=True)
    sent = share[:, 0] > 0
    return x[sent], share[sent].to(x)


def _ffn(gate_up: Tensor, down: Tensor) -> nn.Module:
    module = nn.Module()
    for name, matrix in (("gate_up", gate_up), ("down", down)):
        size_in, size_out = matrix.shape
        linear = nn.Linear(size_in, size_out, bias=False, device="meta")
        linear.weight = nn.Parameter(matrix.T, requires_grad=False)
        module.add_module(name, linear)
    return module
