"""Which windows of layers can share an FFN."""

from torch import nn

from neuromeld.archs.resolve import Architecture
from neuromeld.archs.spec import Space
from neuromeld.errors import UserInputError
from neuromeld.model.surgery import read_matrix
from neuromeld.stages.windows import Window


def check_mergeable(model: nn.Module, arch: Architecture, window: Window) -> None:
    """`UserInputError` unless `window` is at least two adjacent layers of the model, with FF sublayers of one width."""
    layers = f"layers {window.start} to {window.stop - 1}"
    if len(window) < 2 or window.step != 1:
        raise UserInputError(f"a window of {len(window)} sublayers ({window}): merging needs at least 2 adjacent ones")
    if window.start < 0 or window.stop > arch.num_layers:
        raise UserInputError(
            f"the window of {layers} does not fit in the model, whose layers are 0 to {arch.num_layers - 1}: "
            "move it or make it shorter"
        )
    widths = {layer: read_matrix(model, arch.consumer(layer, Space.FFN)).shape[0] for layer in window}
    if len(set(widths.values())) > 1 or 0 in widths.values():
        listed = ", ".join(f"{width} (layer {layer})" for layer, width in widths.items())
        raise UserInputError(
            f"the FF sublayers of {layers} have widths {listed}: only those of one width, above 0, can be merged; "
            "choose another window"
        )
