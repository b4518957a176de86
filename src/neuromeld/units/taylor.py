"""How much the loss feels what each feature does: first-order Taylor importance."""

from collections.abc import Collection, Sequence

from torch import Tensor, nn

from neuromeld.archs.resolve import Architecture
from neuromeld.archs.spec import Space
from neuromeld.model.capture import Batch, backward_batches
from neuromeld.model.gradients import capture_gradients
from neuromeld.model.surgery import read_matrix
from neuromeld.runtime.distributed import own_rows, sum_over_ranks, sum_tensor
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

    batches that every process has: each takes a part, and sums are added over all of them
    light   layers are run again for the backward pass, and keep nothing for it but what enters them

    One forward and one backward pass, a window at a time; none where no spaces are given.
    """
    if not spaces:
        return {}
    consumers = [arch.consumer(layer, space) for space in spaces for layer in arch.layers_with(space)]
    matrices = {one.path: read_matrix(model, one) for one in consumers}
    sums = {path: matrix.new_zeros(len(matrix), dtype=ACCUMULATE) for path, matrix in matrices.items()}

    def on_activation(path: str, x: Tensor, gradient: Tensor) -> None:
        sums[path] += (x * gradient).abs().to(ACCUMULATE).sum(0)

    layers = arch.layer_paths if light else ()
    own = backward_batches(model, own_rows(batches))
    total = sum_over_ranks(capture_gradients(model, list(sums), own, on_activation, light=layers))
    return {path: sum_tensor(value) / total for path, value in sums.items()}
