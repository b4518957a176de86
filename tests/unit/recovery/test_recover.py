"""What recovery tuning does to a checkpoint, and what it must leave as it is."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from neuromeld.checkpoint import load_model
from neuromeld.checkpoint.source import locate
from neuromeld.errors import NumericsError, UserInputError
from neuromeld.evaluation import unique_parameters
from neuromeld.recovery import parse_recovery, recover, recover_model

LEARNT = 0.5
"""Share of the held-out loss that may remain after thirty steps."""


def shapes(folder):
    return {
        name: (tuple(tensor.shape), tensor.dtype) for name, tensor in load_file(folder / "model.safetensors").items()
    }


def unchanged(first, second):
    """Names of the tensors that are equal in both folders."""
    weights = load_file(second / "model.safetensors")
    return {
        name for name, tensor in load_file(first / "model.safetensors").items() if torch.equal(tensor, weights[name])
    }


def held_out(result):
    found = result.record["recovery"]["held_out"]
    return found["loss_before"], found["loss_after"]


def test_tied_stock_model_learns_and_stays_tied(stock, settings, tmp_path):
    out = tmp_path / "out"
    result = recover(str(stock), settings(), out)
    before, after = held_out(result)
    assert after < LEARNT * before
    assert shapes(out) == shapes(stock)
    assert not unchanged(stock, out)
    model = AutoModelForCausalLM.from_pretrained(out)
    assert type(model) is LlamaForCausalLM
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert unique_parameters(model) == result.record["parameters_after"]
    old, new = (json.loads((folder / "config.json").read_text()) for folder in (stock, out))
    assert {k for k in old.keys() | new.keys() if old.get(k) != new.get(k)} <= {"transformers_version"}


def test_native_model_recovers_and_loads(native, settings, tmp_path):
    out = tmp_path / "out"
    before, after = held_out(recover(str(native), settings(), out))
    assert after < LEARNT * before
    assert shapes(out) == shapes(native)
    assert not unchanged(native, out)
    assert (out / "modeling_neuromeld.py").is_file()
    model = AutoModelForCausalLM.from_pretrained(out)
    generated = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=2, do_sample=False, pad_token_id=0)
    assert generated.tolist() == [[5, 6, 7, 8, 9]]


@pytest.mark.parametrize("kind", ["stock", "native"])
def test_low_rank_updates_are_merged_into_the_same_format(kind, settings, tmp_path, request):
    source, out = request.getfixturevalue(kind), tmp_path / "out"
    result = recover(str(source), settings(lora_rank=4), out)
    before, after = held_out(result)
    assert after < 0.95 * before
    assert shapes(out) == shapes(source)
    assert unique_parameters(load_model(out, dtype=None, device="cpu")) == result.record["parameters_after"]
    matrices = {name for name in shapes(source) if ".layers." in name and "norm" not in name}
    assert unchanged(source, out) == shapes(source).keys() - matrices
    assert result.record["recovery"]["parameters_trained"] < result.record["parameters_after"]


def copy_as(folder, out, dtype):
    load_model(folder, dtype=dtype, device="cpu").save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (out / name).write_bytes((folder / name).read_bytes())
    return out


@pytest.mark.parametrize("more", [{}, {"lora_rank": 4}], ids=["all", "low rank"])
def test_a_live_model_is_trained_as_its_checkpoint_is(more, native, settings, tmp_path):
    recover(str(native), settings(steps=5, **more), tmp_path / "out")
    model = load_model(native, dtype=None, device="cpu")
    told = recover_model(model, settings(steps=5, **more), locate(str(native)).tokenizer())
    expected = load_model(tmp_path / "out", dtype=None, device="cpu").state_dict()
    assert model.state_dict().keys() == expected.keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert told["tokens_seen"] == 5 * 128
    assert not model.training


def tuned_weights(native, settings):
    model = load_model(native, dtype=None, device="cpu")
    told = recover_model(model, settings, locate(str(native)).tokenizer())
    return model.state_dict(), [point["loss"] for point in told["loss_curve"]]


def test_an_update_in_parts_is_the_same_update(native, settings):
    weights, curve = tuned_weights(native, settings(steps=3))
    for changes in ({"accumulate": 4}, {"batch_size": 8, "batch_tokens": None}):
        stated = settings(steps=3).model_dump(exclude_unset=True) | changes
        found, losses = tuned_weights(
            native, parse_recovery({key: value for key, value in stated.items() if value is not None})
        )
        assert losses == pytest.approx(curve, rel=1e-5)
        for name, tensor in weights.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-5)
    with pytest.raises(UserInputError, match="accumulate=3 must divide the 8 examples"):
        tuned_weights(native, settings(steps=3, accumulate=3))


def test_a_live_model_cannot_be_held_in_four_bits(native, settings):
    model = load_model(native, dtype=None, device="cpu")
    with pytest.raises(UserInputError, match="read again from its checkpoint"):
        recover_model(model, settings(lora_rank=4, base_bits=4), None)


def test_half_precision_is_trained_in_float32_and_rounded(stock, settings, tmp_path):
    half = copy_as(stock, tmp_path / "half", torch.bfloat16)
    full = copy_as(half, tmp_path / "full", torch.float32)
    for source in (half, full):
        recover(str(source), settings(steps=5, learning_rate=1e-4), tmp_path / f"{source.name}-out")
    assert shapes(tmp_path / "half-out") == shapes(half)
    found, expected = (load_file(tmp_path / f"{name}-out" / "model.safetensors") for name in ("half", "full"))
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor.to(torch.bfloat16)), name


def test_autocast_ends_with_the_training(stock, settings, tmp_path):
    """Else the logits that the file is compared with would be rounded, and the file refused."""
    assert recover(str(stock), settings(steps=2, bf16=True), tmp_path / "out").record["logit_difference"] < 1e-6


def test_distilling_a_model_from_itself_has_nothing_to_learn(stock, settings, tmp_path):
    chosen = settings(steps=2, learning_rate=1e-7, original=str(stock), distill_weight=1.0, temperature=2.0)
    record = recover(str(stock), chosen, tmp_path / "out").record
    assert [point["loss"] for point in record["recovery"]["loss_curve"]] == pytest.approx([0, 0], abs=1e-6)


def test_distillation_follows_the_original(stock, checkpoint, settings, text, tmp_path):
    """On text without a pattern the original is what can be learnt: alone it ends nearer to it than cross-entropy."""
    probe = torch.randint(64, (8, 16), generator=torch.Generator().manual_seed(3))
    original = load_model(checkpoint, dtype=None, device="cpu")(input_ids=probe).logits.log_softmax(-1)
    distances = []
    for name, more in {"ce": {}, "kl": {"original": str(checkpoint), "distill_weight": 1.0}}.items():
        recover(str(stock), settings(train=text, **more), tmp_path / name)
        found = load_model(tmp_path / name, dtype=None, device="cpu")(input_ids=probe).logits.log_softmax(-1)
        distances.append((original.exp() * (original - found)).sum(-1).mean().item())
    assert distances[1] < 0.5 * distances[0]


def test_original_with_another_vocabulary_is_refused(stock, checkpoint, settings, tmp_path):
    other = copy_as(checkpoint, tmp_path / "other", None)
    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["w5"], vocabulary["w6"] = 6, 5
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UserInputError, match="another vocabulary"):
        recover(str(stock), settings(original=str(other)), tmp_path / "out")


def test_loss_that_is_not_finite_stops_with_advice(stock, settings, tmp_path):
    with pytest.raises(NumericsError, match=r"loss is nan at step \d+ of 30.*--learning-rate \(now 1e\+30\)"):
        recover(str(stock), settings(learning_rate=1e30), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_weights_that_end_as_nan_are_not_written(stock, settings, tmp_path):
    """The last step's loss is finite; what its update does is seen in the measurement after it."""
    with pytest.raises(NumericsError):
        recover(str(stock), settings(steps=1, learning_rate=1e38), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_record_recipe_and_card_are_carried_on(stock, settings, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    result = recover(str(stock), settings(steps=2), first)
    old, record = (json.loads((folder / "record.json").read_text()) for folder in (stock, first))
    assert record == result.record
    of_old_weights = {"evaluation", "samples"}
    assert of_old_weights <= old.keys()
    assert not of_old_weights & record.keys()
    measured = {"recovery", "logit_difference", "bytes_on_disk"} | of_old_weights
    assert {key for key in old.keys() | record.keys() if old.get(key) != record.get(key)} <= measured
    assert record["recovery"]["tokens_seen"] == 2 * 128
    assert (first / "recipe.yaml").read_text() == (stock / "recipe.yaml").read_text()
    assert f"{held_out(result)[1]:.3f} after" in (first / "README.md").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["first"]
    again = recover(str(first), settings(steps=2), second).record["recovery"]
    assert again["earlier"] == record["recovery"]


def test_model_without_a_record_recovers(checkpoint, settings, tmp_path):
    record = recover(str(checkpoint), settings(steps=1), tmp_path / "out").record
    assert record.keys() == {"recovery", "logit_difference", "bytes_on_disk", "files"}
    assert not {"recipe.yaml", "README.md"} & {path.name for path in (tmp_path / "out").iterdir()}


def test_same_seed_same_weights(stock, settings, tmp_path):
    for name in ("first", "second"):
        recover(str(stock), settings(steps=3, lora_rank=2), tmp_path / name)
    assert unchanged(tmp_path / "first", tmp_path / "second") == shapes(stock).keys()


def test_damaged_checkpoint_is_refused(stock, settings, tmp_path):
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in stock.iterdir():
        (damaged / path.name).write_bytes(path.read_bytes())
    weights = load_file(damaged / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, damaged / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NumericsError, match="model.norm.weight"):
        recover(str(damaged), settings(), tmp_path / "out")


def test_missing_peft_is_said_before_any_work(settings, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserInputError, match=r"pip install 'neuromeld\[recover\]'"):
        recover(str(tmp_path / "nothing"), settings(lora_rank=2), tmp_path / "out")


def test_missing_bitsandbytes_is_said_before_any_work(settings, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserInputError, match=r"4 bits needs bitsandbytes: pip install 'neuromeld\[qlora\]'"):
        recover(str(tmp_path / "nothing"), settings(lora_rank=2, base_bits=4), tmp_path / "out")


@pytest.mark.parametrize("device", ["cuda:1", "meta"])
def test_other_devices_are_refused(device, stock, settings, tmp_path):
    with pytest.raises(UserInputError, match="CUDA_VISIBLE_DEVICES"):
        recover(str(stock), settings(), tmp_path / "out", device=device)
