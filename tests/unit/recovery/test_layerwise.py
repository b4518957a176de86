"""Layers that learn, one at a time, to write what those of the original write."""

import pytest
import torch
from safetensors.torch import load_file

from neuromeld import compress, parse_recipe
from neuromeld.checkpoint import load_model
from neuromeld.checkpoint.source import locate
from neuromeld.errors import UserInputError
from neuromeld.planning.plan import architecture_of
from neuromeld.recovery import parse_recovery, recover
from neuromeld.recovery.layerwise import ends_of
from neuromeld.recovery.memory import footprint_of_layers


@pytest.fixture(scope="module")
def smaller(checkpoint, text, tmp_path_factory):
    """The tiny model with narrower FFNs, one layer dropped, or two FFNs shared."""

    def build(**stages):
        out = tmp_path_factory.mktemp("smaller") / "out"
        calibration = {"source": text, "tokens": 1024, "seqlen": 32}
        compress(str(checkpoint), parse_recipe(stages | {"calibration": calibration}), out, evaluate=False)
        return out

    return build


def layerwise(original, text, **changes):
    stated = {"train": text, "original": str(original), "layerwise_tokens": 4096, "layerwise_rate": 5e-4}
    return parse_recovery(stated | {"seqlen": 32, "batch_tokens": 128, "bf16": False} | changes)


@pytest.mark.parametrize(
    "stages",
    [
        {"ffn": {"ratio": 0.5, "compensate": "none"}},
        {"drop_layers": {"layers": [1], "compensate": "none"}},
        {"ffn": {"size": [16, 24, 8], "compensate": "none"}},
    ],
    ids=["narrower", "dropped", "by layer"],
)
def test_every_layer_comes_nearer(checkpoint, text, smaller, tmp_path, stages):
    small = smaller(**stages)
    result = recover(str(small), layerwise(checkpoint, text), tmp_path / "out")
    layers = result.record["recovery"]["layers"]
    assert [layer["layer"] for layer in layers] == list(range(len(layers)))
    assert layers[0]["error_after"] < 0.9 * layers[0]["error_before"]
    before, after = (load_model(path, dtype=None, device="cpu") for path in (small, tmp_path / "out"))
    assert {k: v.shape for k, v in before.state_dict().items()} == {k: v.shape for k, v in after.state_dict().items()}
    assert torch.equal(before.get_input_embeddings().weight, after.get_input_embeddings().weight)
    held = result.record["recovery"]["held_out"]
    assert held["loss_original"] < held["loss_after"] + 0.5


def test_a_layer_that_is_right_stays_as_it_is(checkpoint, text, tmp_path):
    recover(str(checkpoint), layerwise(checkpoint, text), tmp_path / "out")
    before, after = (load_model(path, dtype=None, device="cpu").state_dict() for path in (checkpoint, tmp_path / "out"))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_layers_share_stays_as_it_is(checkpoint, text, smaller, tmp_path):
    small = smaller(share_ffns={"window": [1, 2], "compensate": "none"})
    recover(str(small), layerwise(checkpoint, text), tmp_path / "out")
    before, after = (load_model(path, dtype=None, device="cpu").state_dict() for path in (small, tmp_path / "out"))
    shared = [name for name in before if ".layers.1.mlp." in name or ".layers.2.mlp." in name]
    assert shared
    assert all(torch.equal(before[name], after[name]) for name in shared)
    assert not torch.equal(*(w["model.layers.2.self_attn.q_proj.weight"] for w in (before, after)))


def test_a_dropped_layer_is_stood_for_by_the_one_before_it(checkpoint):
    whole = architecture_of(load_model(checkpoint, dtype=None, device="cpu"))
    assert ends_of(whole, [2], [1]) == [1, 2]
    assert ends_of(whole, [1], [0, 2]) == [2]
    assert ends_of(whole, [3], []) == [0, 1, 2]
    with pytest.raises(UserInputError, match="has 2 layers where the original has 3"):
        ends_of(whole, [2], [])


def test_another_stream_cannot_be_followed(stock, checkpoint, text, tmp_path):
    with pytest.raises(UserInputError, match="16 wide where the original's has 24"):
        recover(str(stock), layerwise(checkpoint, text), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_length_in_tokens_and_in_minutes(stock, settings, tmp_path):
    by_tokens = recover(str(stock), settings(steps=None, tokens=1000), tmp_path / "tokens").record["recovery"]
    assert by_tokens["settings"]["steps"] == 1000 // 128
    by_time = recover(str(stock), settings(steps=None, minutes=0.01), tmp_path / "minutes").record["recovery"]
    assert by_time["settings"]["steps"] > 0
    recover(str(stock), settings(steps=by_time["settings"]["steps"]), tmp_path / "as many")
    timed, counted = (load_file(tmp_path / name / "model.safetensors") for name in ("minutes", "as many"))
    assert all(torch.equal(timed[name], counted[name]) for name in counted), "measuring the time changed something"
    with pytest.raises(UserInputError, match="less than one update of 128"):
        recover(str(stock), settings(steps=None, tokens=100), tmp_path / "none")
    with pytest.raises(UserInputError, match="minutes=1e-06 leave"):
        recover(str(stock), settings(steps=None, minutes=1e-6), tmp_path / "none")


@pytest.mark.parametrize("only", ["norms", "embeddings"])
def test_only_one_kind_is_trained(only, stock, settings, tmp_path):
    recover(str(stock), settings(steps=3, only=only), tmp_path / "out")
    before, after = (load_model(path, dtype=None, device="cpu").state_dict() for path in (stock, tmp_path / "out"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    wanted = {
        name for name in before if ("embed" in name or "lm_head" in name if only == "embeddings" else "norm" in name)
    }
    assert changed == wanted


@pytest.fixture
def limit(checkpoint):
    """A memory that the weights of some models do not fit in beside what their layers take."""

    def build(small, settings):
        model = load_model(checkpoint, dtype=None, device="cpu")
        weights = locate(small).bytes_on_disk() + locate(checkpoint).bytes_on_disk()
        return footprint_of_layers(model, weights, settings.layerwise_data).peak() - 1

    return build


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_weights_on_the_disk_give_the_same(dtype, checkpoint, text, smaller, tmp_path, limit):
    small = smaller(ffn={"ratio": 0.5, "compensate": "none"})
    if dtype == torch.bfloat16:
        load_model(small, dtype=dtype, device="cpu").save_pretrained(tmp_path / "small")
        locate(small).tokenizer().save_pretrained(tmp_path / "small")
        small = tmp_path / "small"
    settings = layerwise(checkpoint, text)
    in_memory = recover(str(small), settings, tmp_path / "one")
    in_files = recover(str(small), settings, tmp_path / "other", max_memory=limit(small, settings))
    assert not in_memory.record["recovery"]["memory_mapped"]
    assert in_files.record["recovery"]["memory_mapped"]
    one, other = (load_model(tmp_path / name, dtype=None, device="cpu") for name in ("one", "other"))
    assert one.dtype == other.dtype == dtype
    assert all(torch.equal(x, other.state_dict()[name]) for name, x in one.state_dict().items())
    assert in_memory.record["recovery"]["held_out"] == in_files.record["recovery"]["held_out"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({"one", "other", small.name} - {"out"})


def test_too_little_memory_names_the_least_and_writes_nothing(checkpoint, text, smaller, tmp_path):
    small = smaller(ffn={"ratio": 0.5, "compensate": "none"})
    with pytest.raises(UserInputError, match=r"the smallest that works is --max-memory \d+MB"):
        recover(str(small), layerwise(checkpoint, text), tmp_path / "out", max_memory=1 << 20)
    assert not list(tmp_path.iterdir())


def test_other_training_has_its_weights_in_memory(checkpoint, text, smaller, tmp_path):
    small = smaller(ffn={"ratio": 0.5, "compensate": "none"})
    with pytest.raises(UserInputError, match="layers that are trained one at a time"):
        recover(str(small), layerwise(checkpoint, text, steps=3), tmp_path / "out", max_memory=1 << 40)
    assert not list(tmp_path.iterdir())
