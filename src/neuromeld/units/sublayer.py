"""One sublayer at work on the calibration data: attention or an FFN, or one of the experts of a mixture."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from neuromeld.archs.spec import Space, Weight
from neuromeld.linalg.ridge import FitReport
from neuromeld.model.layerwise import LayerInputs
from neuromeld.model.surgery import read_bias, read_matrix, write_bias, write_matrix
from neuromeld.registry import Need
from neuromeld.shapes import ACCUMULATE
from neuromeld.stats import FeatureMoments, Features, TargetMoments
from neuromeld.stats.split import SplitStatistic, held_out_here, is_held_out
from neuromeld.transport import PlanSummary
from neuromeld.units.compensation import COMPENSATIONS, Consumer
from neuromeld.units.selectors import SELECTORS, Units
from neuromeld.units.typical import Tokens


@dataclass(frozen=True)
class SublayerResult:
    """The result of narrowing one space of one layer.

    `before` and `after` count hidden neurons, or key-value heads; `kept` are their indices.  The errors of `fit` are
    those of what the sublayer, or the `expert` of that number, writes, on held-out tokens.  `merges` tells where
    neurons went that were merged.
    """

    layer: int
    space: Space
    before: int
    after: int
    kept: tuple[int, ...]
    fit: FitReport
    expert: int | None = None
    merges: PlanSummary | None = None


class Narrowable(Protocol):
    """A sublayer or an expert: a consumer, and features on every batch."""

    @property
    def model(self) -> nn.Module: ...
    @property
    def layer(self) -> int: ...
    @property
    def consumer(self) -> Weight: ...
    @property
    def producers(self) -> tuple[Weight, ...]: ...
    @property
    def importance(self) -> Tensor | None: ...
    @property
    def num_batches(self) -> int: ...
    def is_held_out(self, batch: int) -> bool:
        """Tell whether a batch is held out."""

    def features(self, batch: int) -> Tensor:
        """Return what the consumer reads, `(n, f)`."""


@dataclass(frozen=True)
class Sublayer:
    """The attention or the FFN of a layer, by the space that its consumer reads.

    importance  of each feature in the whole model, `(f,)`; None where the selector does not look at that
    """

    model: nn.Module
    inputs: LayerInputs
    space: Space
    importance: Tensor | None = None

    @property
    def layer(self) -> int:
        """The number of its layer."""
        return self.inputs.index

    @property
    def consumer(self) -> Weight:
        """The matrix that writes what it does into the stream."""
        return self.inputs.arch.consumer(self.layer, self.space)

    @property
    def producers(self) -> tuple[Weight, ...]:
        """The matrices that write into its space."""
        return self.inputs.arch.producers(self.layer, self.space)

    @property
    def num_batches(self) -> int:
        """Calibration batches."""
        return len(self.inputs.batches)

    def is_held_out(self, batch: int) -> bool:
        """Tell whether a batch is held out."""
        return held_out_here(self.inputs.batches, batch)

    def features(self, batch: int) -> Tensor:
        """Return what the consumer reads, `(n, f)`."""
        (z,) = self.called(batch)
        return z

    def called(self, batch: int) -> tuple[Tensor, ...]:
        """Return what the consumer's module is called with, real tokens only."""
        return self.inputs.called(batch, self.model.get_submodule(self.consumer.path))


@dataclass(frozen=True)
class Expert:
    """One expert of a mixture, as an FFN of its own.

    model       holds its matrices, as `gate_up` and `down`; a bias of its output stays where it is
    activation  from what the first matrix writes to the hidden units
    routed      tokens `(n, d)` and the expert's share in what becomes of each `(n, 1)`, a pair a batch
    producer    the first matrix
    """

    model: nn.Module
    layer: int
    number: int
    activation: Callable[[Tensor], Tensor]
    routed: list[tuple[Tensor, Tensor]]
    producer: Weight

    consumer = Weight("down", in_=Space.FFN, out=Space.RESIDUAL)
    importance = None

    @property
    def producers(self) -> tuple[Weight, ...]:
        """The matrix that writes into its hidden units, once or twice."""
        return (self.producer,)

    @property
    def num_batches(self) -> int:
        """Calibration batches."""
        return len(self.routed)

    def is_held_out(self, batch: int) -> bool:
        """Tell whether a batch is held out."""
        return is_held_out(batch, len(self.routed))

    def features(self, batch: int) -> Tensor:
        """Return what the consumer reads, times the expert's share, `(n, f)`."""
        x, share = self.routed[batch]
        return self.hidden(x) * share

    def hidden(self, x: Tensor) -> Tensor:
        """Return its hidden units on tokens `(n, d)`, `(n, f)`."""
        written, bias = x @ read_matrix(self.model, self.producer), read_bias(self.model, self.producer)
        return self.activation(written if bias is None else written + bias)


def score(units: Narrowable, selector: str, features: Features, seed: int, size: int = 1) -> Tensor:
    """Return the selector's score of each feature, `(f,)`; `size` of them are a unit."""
    matrix = read_matrix(units.model, units.consumer).to(ACCUMULATE)
    result: Tensor = SELECTORS[selector](Units(features, matrix, units.importance, seed, size))
    return result


def written(units: Narrowable, batch: int) -> Tensor:
    """Return what the sublayer writes, its bias apart, `(n, d)`."""
    return units.features(batch) @ read_matrix(units.model, units.consumer)


def moments(units: Narrowable) -> tuple[Features, Features]:
    """Return features against all that is written from them now, to fit on and held out."""
    matrix = read_matrix(units.model, units.consumer).to(ACCUMULATE)
    sums = SplitStatistic(lambda: FeatureMoments(len(matrix)))
    for b in range(units.num_batches):
        sums.update(units.is_held_out(b), units.features(b))
    fitted, held_out = sums.finalize(matrix)
    return fitted, held_out


def moments_against(units: Narrowable, targets: Sequence[Tensor], width: int) -> tuple[Features, Features]:
    """Return features, `width` of them now, against what should be written from them, to fit on and held out."""
    sums = SplitStatistic(lambda: TargetMoments(width, targets[0].shape[1]))
    for b, y in enumerate(targets):
        sums.update(units.is_held_out(b), units.features(b), y)
    fitted, held_out = sums.finalize()
    return fitted, held_out


def pairs_of_some(units: Narrowable, kept: Tensor) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Return, by batch, some of the features and all that is written from all of them, as long as they are there."""
    matrix = read_matrix(units.model, units.consumer)

    def pair(batch: int) -> tuple[Tensor, Tensor]:
        z = units.features(batch)
        return z[:, kept], z @ matrix

    return pair


def compensate(
    units: Narrowable,
    method: str,
    initial: Tensor,
    fitted: Features,
    held_out: Features,
    pair: Callable[[int], tuple[Tensor, Tensor]],
) -> FitReport:
    """Write the consumer's new matrix and, where it has one and it may change, its bias; say how well it fits.

    pair   by batch, the features that are left and what should be written, of which the other two are the moments
    """
    bias = read_bias(units.model, units.consumer)
    assert bias is not None or Need.BIAS not in COMPENSATIONS[method].needs, "the plan refuses it"
    initial, tokens = initial.to(ACCUMULATE), Tokens(units.num_batches, units.is_held_out, pair)
    found = COMPENSATIONS[method](Consumer(fitted, held_out, initial, bias is not None))
    if found.fit.fit.kept and tokens.harmed_by(found, initial):
        usual = tokens.usual(*initial.shape)
        found = COMPENSATIONS[method](Consumer(*usual, initial, bias is not None))
        if found.fit.fit.kept and tokens.harmed_by(found, initial):
            found = COMPENSATIONS["none"](Consumer(fitted, held_out, initial, bias is not None))
    write_matrix(units.model, units.consumer, found.fit.matrix)
    if bias is not None and found.shift is not None:
        write_bias(units.model, units.consumer, bias.to(ACCUMULATE) + found.shift)
    report: FitReport = found.fit.fit
    return report


def experts_of(sublayer: Sublayer) -> list[Expert]:
    """Return the experts of a sublayer, each with the tokens that are sent to it."""
    (producer,), consumer = sublayer.producers, sublayer.consumer
    called = [sublayer.called(batch) for batch in range(sublayer.num_batches)]
    matrices = zip(*(read_matrix(sublayer.model, weight) for weight in (producer, consumer)), strict=True)
    biases = read_bias(sublayer.model, producer)
    own = replace(producer, path="gate_up", name="weight", layout="linear")
    module: Any = sublayer.model.get_submodule(consumer.path)
    activation = module._apply_gate if module.has_gate else module.act_fn
    return [
        Expert(
            _ffn(gate_up, down, None if biases is None else biases[number]),
            sublayer.layer,
            number,
            activation,
            [_routed_to(number, *inputs) for inputs in called],
            own,
        )
        for number, (gate_up, down) in enumerate(matrices)
    ]


def write_experts(sublayer: Sublayer, experts: list[Expert]) -> None:
    """Put the matrices of all experts back, and the biases of the first."""
    (producer,), own = sublayer.producers, experts[0].producer
    for weight, part in ((producer, own), (sublayer.consumer, Expert.consumer)):
        write_matrix(sublayer.model, weight, torch.stack([read_matrix(expert.model, part) for expert in experts]))
    biases = [bias for expert in experts if (bias := read_bias(expert.model, own)) is not None]
    if biases:
        write_bias(sublayer.model, producer, torch.stack(biases))


def sent_to(number: int, chosen: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Return the shares `(m, 1)` that an expert has in some of `n` tokens, and the numbers of these `(m,)`.

    chosen, shares  experts that each token is sent to, and their shares, `(n, k)` both
    """
    share = (shares * (chosen == number)).sum(1, keepdim=True)
    sent = share[:, 0].nonzero()[:, 0]
    return share[sent], sent


def _routed_to(number: int, x: Tensor, chosen: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    share, sent = sent_to(number, chosen, shares)
    return x[sent], share.to(x)


def _ffn(gate_up: Tensor, down: Tensor, bias: Tensor | None) -> nn.Module:
    module = nn.Module()
    for name, matrix in (("gate_up", gate_up), ("down", down)):
        size_in, size_out = matrix.shape
        linear = nn.Linear(size_in, size_out, bias=False, device="meta")
        linear.weight = nn.Parameter(matrix.T, requires_grad=False)
        module.add_module(name, linear)
    if bias is not None:
        module.get_submodule("gate_up").bias = nn.Parameter(bias, requires_grad=False)
    return module
