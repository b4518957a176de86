"""Fit anew what a model scales the output of each FFN by, behind sublayers that were merged.

Some models have a factor for each channel there, of every layer its own: LayerScale, or the gain of a norm on what the
FFN writes.  It becomes the least-squares one, `argmin_s |s * n(Z W + b) - s_0 * n_0(y)|^2` for each channel, where `n`
is the norm, if any: a gain for each member that takes no parameter.  Kept only if it lowers the error on held-out
tokens.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuromeld.archs.resolve import Architecture
from neuromeld.archs.spec import Space
from neuromeld.model.capture import Batch
from neuromeld.model.surgery import load_parameters
from neuromeld.shapes import ACCUMULATE
from neuromeld.stages.share_ffns.corrections import LayerCorrection
from neuromeld.stages.share_ffns.paired_layers import paired_layers
from neuromeld.stats import Statistic
from neuromeld.stats.split import SplitStatistic


class ChannelAgreement(Statistic):
    """`x^2`, `x y` and `y^2` of each channel, summed over tokens; `update(x, y)` takes `(n, d)` twice."""

    def __init__(self, width: int) -> None:
        super().__init__(width, power=(width,), agreement=(width,), energy=(width,))

    def _terms(self, x: Float[Tensor, "n d"], y: Float[Tensor, "n d"]) -> Mapping[str, Tensor]:
        x, y = x.to(ACCUMULATE), y.to(ACCUMULATE)
        return {"power": x.square().sum(0), "agreement": (x * y).sum(0), "energy": y.square().sum(0)}

    def factor(self) -> Float[Tensor, " d"]:
        """`argmin_g |g x - y|^2` of each channel; 1 where x is 0."""
        means = self._means()
        power = means["power"]
        return torch.where(power > 0, means["agreement"] / power, torch.ones_like(power))

    def error(self, factor: Float[Tensor, " d"] | float = 1.0) -> float:
        """`|factor x - y|^2 / |y|^2`."""
        means = self._means()
        left = means["energy"] - 2 * factor * means["agreement"] + factor**2 * means["power"]
        return float(left.sum() / means["energy"].sum().clamp(min=torch.finfo(ACCUMULATE).tiny))


@torch.no_grad()
def fit_scales(
    model: nn.Module, arch: Architecture, originals: Mapping[int, nn.Module], batches: Sequence[Batch]
) -> list[LayerCorrection]:
    """FitReport and write the scales of the merged layers of `model`, whose architecture has them.

    originals, batches  as `paired_layers` takes them
    """
    scale = arch.stack(min(originals)).ffn_scale
    assert scale is not None, "the plan refuses it"
    path, _, name = scale.path.rpartition(".")
    members = []
    for layer in paired_layers(model, arch, originals, batches):
        merged, original = (each.get_submodule(path) for each in (layer.merged, layer.original))
        sums = SplitStatistic(lambda: ChannelAgreement(arch.widths[Space.RESIDUAL]))
        for is_held_out, x, own in layer.reads(path):
            sums.update(is_held_out, merged(x), original(own))
        fitted, held_out = sums.reduced()
        factor = fitted.factor()
        before, after = held_out.error(), held_out.error(factor)
        if after < before:
            found = getattr(merged, name).to(ACCUMULATE) + scale.offset
            load_parameters(layer.merged, {scale.path: factor * found - scale.offset})
        members.append(LayerCorrection(layer.index, before, min(before, after)))
    return members
