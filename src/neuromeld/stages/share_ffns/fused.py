"""The FFN that a window of layers is to share, before it is written into the model."""

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from neuromeld.archs.resolve import Architecture
from neuromeld.archs.spec import Space, Weight
from neuromeld.model.surgery import (
    copy_structure,
    load_parameters,
    read_bias,
    read_matrix,
    share,
    write_bias,
    write_matrix,
)
from neuromeld.shapes import ACCUMULATE
from neuromeld.stages.windows import Window


@dataclass(frozen=True)
class FusedFfn:
    """The FFN of a window; `layer` is a copy of the window's first layer that has it."""

    arch: Architecture
    window: Window
    layer: nn.Module

    def in_layer(self, layer: nn.Module) -> nn.Module:
        """Return a copy of one of the window's layers with this FFN; other parameters are the very ones of `layer`."""
        found = copy_structure(layer)
        load_parameters(found, self._parameters)
        return found

    def write(self, model: nn.Module) -> None:
        """Let all layers of the window share this FFN."""
        first = model.get_submodule(self.arch.layer_path(self.window[0]))
        load_parameters(first, self._parameters)
        for weight in self.weights:
            share(model, [self.arch.layer_path(layer, weight.path) for layer in self.window])

    @property
    def output_path(self) -> str:
        """Return the path of the module that writes what the FFN does, from the layer on."""
        return self._output.path

    @property
    def output(self) -> Float64[Tensor, "g d"]:
        """Return the output matrix; its last row is the bias, where there is one."""
        matrix, bias = read_matrix(self.layer, self._output), read_bias(self.layer, self._output)
        return (matrix if bias is None else torch.cat([matrix, bias[None]])).to(ACCUMULATE)

    def write_output(self, output: Float64[Tensor, "g d"]) -> None:
        """Change the output matrix and the bias, as `output` gives them."""
        width = len(read_matrix(self.layer, self._output))
        write_matrix(self.layer, self._output, output[:width])
        if len(output) > width:
            write_bias(self.layer, self._output, output[width])

    @property
    def weights(self) -> tuple[Weight, ...]:
        """Return the weights around the hidden units, with paths from the layer on."""
        weights = self.arch.stack(self.window[0]).weights
        return tuple(weight for weight in weights if Space.FFN in (weight.in_, weight.out))

    @property
    def _output(self) -> Weight:
        return next(weight for weight in self.weights if weight.in_ == Space.FFN)

    @property
    def _parameters(self) -> dict[str, nn.Parameter]:
        paths = {weight.path for weight in self.weights}
        return {name: value for name, value in self.layer.named_parameters() if name.rpartition(".")[0] in paths}
