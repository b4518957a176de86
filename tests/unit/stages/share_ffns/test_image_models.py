"""What is particular to image encoders when their FF sublayers are merged."""

import pytest
import torch

from contract.families import batches_for, build, inputs_for
from neuromeld.archs.spec import Space
from neuromeld.model.outputs import outputs
from neuromeld.planning.plan import architecture_of
from neuromeld.stages.share_ffns import share_ffns


@pytest.mark.parametrize("family", ["dinov2", "vit"])
@torch.no_grad()
def test_permuted_copies_of_one_ffn_merge_without_loss_and_layer_scales_stay(family):
    """The scales differ between the layers, and so do the norms: they are no part of what is shared."""
    model = build(family)
    arch = architecture_of(model)
    first, second = (model.get_submodule(arch.layer_path(layer)) for layer in (1, 2))
    order = torch.randperm(arch.widths[Space.FFN], generator=torch.Generator().manual_seed(0))
    second.mlp.fc1.weight.copy_(first.mlp.fc1.weight[order])
    second.mlp.fc1.bias.copy_(first.mlp.fc1.bias[order])
    second.mlp.fc2.weight.copy_(first.mlp.fc2.weight[:, order])
    second.mlp.fc2.bias.copy_(first.mlp.fc2.bias)
    # What enters both FFs is alike only if the layers around do little: the norms make it the same up to that.
    for parameter in (second.attention.o_proj.weight, second.attention.o_proj.bias, first.mlp.fc2.weight):
        parameter.mul_(1e-3)
    second.mlp.fc2.weight.mul_(1e-3)
    norms = [layer.get_submodule(arch.stack(1).norms[1].path) for layer in (first, second)]
    norms[1].weight.copy_(norms[0].weight)
    norms[1].bias.copy_(norms[0].bias)
    expected = outputs(model, inputs_for(model, 4))
    extras = {
        path: model.get_parameter(path).clone() for layer in (1, 2) for path in arch.layer_untouched_parameters(layer)
    }
    share_ffns(model, arch, range(1, 3), batches_for(model))
    assert second.mlp.fc1.weight is first.mlp.fc1.weight
    torch.testing.assert_close(outputs(model, inputs_for(model, 4)), expected, rtol=1e-9, atol=1e-9)
    assert len(extras) == (4 if family == "dinov2" else 0)
    for path, value in extras.items():
        assert torch.equal(model.get_parameter(path), value)
