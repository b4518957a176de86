"""The gradient selector, against the derivative by an explicit mask on each feature."""

import pytest
import torch

from contract.families import batches_for, build
from neuromeld import compress_model, make_plan, parse_recipe
from neuromeld.planning.plan import architecture_of
from neuromeld.stats.split import is_held_out
from neuromeld.units.taylor import taylor_importance
from unit.stages.models import batches, padded
from unit.units.models import narrow


def derivative_by_a_mask(model, path, data):
    """Mean over predicted tokens of `|dL/dm|`, `(f,)`, of a mask `m` on each feature at each token."""
    total, predicted = 0, 0
    for batch in data:
        ids = batch["input_ids"]
        mask = torch.ones(*ids.shape, model.get_submodule(path).weight.numel() // model.config.hidden_size)
        mask = mask.double().requires_grad_()

        def before(_, args, mask=mask):
            return (args[0] * mask.view_as(args[0]), *args[1:])

        handle = model.get_submodule(path).register_forward_pre_hook(before)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="sum")
        loss.backward()
        handle.remove()
        total += mask.grad.abs().flatten(0, 1).sum(0)
        predicted += ids[:, 1:].numel()
    return total / predicted


@pytest.mark.parametrize(
    ("family", "space"),
    [("llama-tied", "ffn"), ("qwen3", "heads"), ("gpt2", "ffn"), ("opt", "ffn"), ("bloom", "heads")],
)
def test_felt_is_the_mean_absolute_derivative_by_a_mask(family, space):
    model, data = build(family), batches(16)
    arch = architecture_of(model)
    found = taylor_importance(model, arch, [space], data)
    assert list(found) == [arch.consumer(layer, space).path for layer in range(arch.num_layers)]
    for layer in (0, 2):
        path = arch.consumer(layer, space).path
        torch.testing.assert_close(found[path], derivative_by_a_mask(model, path, data), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("family", ["llama-tied", "gpt2", "t5", "whisper"])
def test_layers_that_are_run_again_feel_the_same(family):
    """To the last bit."""
    model = build(family)
    data = batches_for(model, 8)
    arch = architecture_of(model)
    plain, light = (taylor_importance(model, arch, ["ffn", "heads"], data, light=light) for light in (False, True))
    assert plain.keys() == light.keys()
    for path, felt in plain.items():
        assert torch.equal(light[path], felt), path


def test_padding_is_not_felt():
    model = build("llama")
    arch = architecture_of(model)
    plain = taylor_importance(model, arch, ["ffn", "heads"], batches(16))
    found = taylor_importance(model, arch, ["ffn", "heads"], padded(batches(16), 7))
    for path, felt in plain.items():
        torch.testing.assert_close(found[path], felt, rtol=1e-4, atol=0)


def test_neurons_and_groups_that_the_loss_feels_most_are_kept():
    """By what the whole model does on the batches that are not held out, however narrow it is when they are chosen."""
    dense, model = build("llama"), build("llama")
    arch, data = architecture_of(dense), batches()
    fitted = [batch for b, batch in enumerate(data) if not is_held_out(b, len(data))]
    done = narrow(model, ffn=[20] * 4, groups=[1] * 4, selector="taylor")
    assert len(done) == 8
    for entry in done:
        score = derivative_by_a_mask(dense, arch.consumer(entry.layer, entry.space).path, fitted)
        score = score.view(entry.before, -1).sum(1)
        assert list(entry.kept) == sorted(score.topk(entry.after).indices.tolist())


def test_selector_works_in_a_recipe():
    model = build("llama")
    recipe = parse_recipe(
        {
            "ffn": {"size": 24, "selector": "taylor"},
            "heads": {"num_kv_heads": 1, "selector": "taylor"},
            "calibration": {"tokens": 1536, "seqlen": 16},
        }
    )
    model.requires_grad_(True)
    done = compress_model(model, make_plan(model, recipe), batches())
    assert {space: {entry.space for entry in done.results[space].layers} for space in ("ffn", "heads")} == {
        "ffn": {"ffn"},
        "heads": {"heads"},
    }
    assert all(p.requires_grad and p.grad is None for p in done.model.parameters())
