"""How much the loss feels what each feature does: first-order Taylor importance."""

from collections.abc import Collection, Sequence

from torch import Tensor, nn

from neuromeld.archs.resolve import Architecture
from neuromeld.archs.spec import Space
from neuromeld.model.capture import Batch, backward_batches
from neuromeld.model.gradients import capture_gradients
from neuromeld.shapes import ACCUMULATE


def taylor_importance(
    model: nn.Module,
    arch: Architecture,
    spaces: Collection[Space],
    batches: Sequence[Batch],
    *,
    light: bool = False,
) -> dict[str, Tensor]:
    """Return the mean over tokens of `|z dL/dz|` of each feature, `(f,)`, by the path of the consumer that reads it.

    light   layers are run again for the backward pass, and keep nothing for it but what enters them

    One forward and one backward pass, a window at a time; none where no spaces are given.
    """
    if not spaces:
        return {}
    paths = [arch.consumer(layer, space).path for space in spaces for layer in arch.layers_with(space)]
    sums: dict[str, Tensor] = {}

    def on_activation(path: str, x: Tensor, gradient: Tensor) -> None:
        taylor = (x * gradient).abs().to(ACCUMULATE).sum(0)
        sums[path] = sums[path] + taylor if path in sums else taylor

    layers = arch.layer_paths if light else ()
    total = capture_gradients(model, paths, backward_batches(model, batches), on_activation, light=layers)
    return {path: sums[path] / total for path in paths}
