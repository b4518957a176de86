"""The published SliceGPT form (arXiv:2401.15024) as a baseline: PCA at every cut, two changes of basis a layer.

Simulated at full width, `x -> x Q Q^T` at every cut, which gives the logits of the truly narrow model.  Each cut's
second moment is that of the already narrowed network, and the parameters are those that the form would have: narrow
matrices, a `k x k` shortcut at every cut but the first, and an untied head.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from neuromeld.plan import architecture_of
from neuromeld.streams import Batch, record_calls

DAMPING = 0.01


@torch.no_grad()
def simulate_slicegpt_form(model: nn.Module, batches: Sequence[Batch], k: int) -> None:
    """Make `model` compute what its SliceGPT form of width `k` would; it keeps its full width."""
    arch = architecture_of(model)
    calls = record_calls(model, arch, batches)
    hidden = calls.hidden
    for index in range(arch.num_layers):
        layer = model.get_submodule(arch.layer_path(index))
        first = projection(hidden, k)
        hidden = [x @ first for x in hidden]
        norm = model.get_submodule(arch.cut_norms(index)[1].path)
        second = projection([calls.run_until(layer, index, b, x, norm) for b, x in enumerate(hidden)], k)
        _project(layer, model.get_submodule(arch.layer_path(index, "self_attn")), first, second)
        hidden = [calls.run(layer, index, b, x) for b, x in enumerate(hidden)]
    last = projection(hidden, k)
    model.get_submodule(arch.spec.final_norm.path).register_forward_pre_hook(lambda _, args: (args[0] @ last,))


def projection(streams: Sequence[Tensor], k: int) -> Tensor:
    """`Q Q^T` of the `k` leading eigenvectors of the damped second moment."""
    second_moment = sum(x.flatten(0, 1).double().T @ x.flatten(0, 1).double() for x in streams)
    damped = second_moment + DAMPING * second_moment.diagonal().mean() * torch.eye(len(second_moment))
    vectors = torch.linalg.eigh(damped).eigenvectors[:, -k:]
    return (vectors @ vectors.T).to(streams[0].dtype)


def _project(layer: nn.Module, attention: nn.Module, first: Tensor, second: Tensor) -> None:
    """Project the stream where it enters `layer`, and again after the residual add behind `attention`."""
    entering: list[Tensor] = []

    def enter(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        entering[:] = [args[0] @ first]
        return (entering[0], *args[1:])

    def leave(_: nn.Module, __: object, output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return ((entering[0] + output[0]) @ second - entering[0], *output[1:])

    layer.register_forward_pre_hook(enter)
    attention.register_forward_hook(leave)


def parameters_of_form(model: nn.Module, k: int) -> int:
    """What the form stores: every residual axis narrowed, shortcuts, and a head of its own."""
    arch = architecture_of(model)
    d, vocabulary = arch.width, arch.widths["vocab"]
    matrices = sum(
        k * (arch.widths[w.in_] if w.out == "residual" else arch.widths[w.out])
        for layer in range(arch.num_layers)
        for w in arch.layer_weights(layer)
    )
    assert d >= k
    return matrices + 2 * vocabulary * k + 2 * arch.num_layers * k * k


def width_for(model: nn.Module, budget: int) -> int:
    """The largest width whose form fits the budget."""
    accepts: Callable[[int], bool] = lambda k: parameters_of_form(model, k) <= budget  # noqa: E731
    return max(k for k in range(2, architecture_of(model).width + 1) if accepts(k))
