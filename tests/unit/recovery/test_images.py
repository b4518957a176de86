"""Recovery tuning of image classifiers, and what else it is refused for."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification, ViTConfig, ViTForImageClassification

from contract.families import build
from neuromeld.checkpoint import load_model
from neuromeld.data.images import read_images
from neuromeld.errors import NumericsError, UnsupportedModelError, UserInputError
from neuromeld.evaluation import top1_accuracy, unique_parameters
from neuromeld.modalities import Images
from neuromeld.modalities.images import image_batch
from neuromeld.recovery import recover

CHANCE = 0.1
"""Accuracy of a guess among ten digits."""


def accuracy(folder):
    model = AutoModelForImageClassification.from_pretrained(folder)
    images = read_images("digits", "evaluation")
    batch = image_batch(images, range(len(images.pixels)), Images().processor(folder), model.config)
    return top1_accuracy(model, [batch]).accuracy


def test_merged_classifier_learns_and_stays_tied(merged_vit, digits, tmp_path):
    out = tmp_path / "out"
    recovery = (result := recover(str(merged_vit), digits(), out)).record["recovery"]
    assert recovery["held_out"]["loss_after"] < 0.7 * recovery["held_out"]["loss_before"]
    assert accuracy(out) > 3 * CHANCE
    assert recovery["data"] == {
        "kind": "images",
        "source": "digits",
        "split": "calibration",
        "tokens": 17 * len(read_images("digits", "calibration").pixels),
    }
    assert recovery["tokens_seen"] == 100 * 30 * 17
    first, second = (load_file(folder / "model.safetensors") for folder in (merged_vit, out))
    assert {name: tensor.shape for name, tensor in first.items()} == {n: tensor.shape for n, tensor in second.items()}
    assert not [name for name, tensor in first.items() if torch.equal(tensor, second[name])]
    model = load_model(out, dtype=None, device="cpu")
    weights = [model.get_parameter(f"vit.layers.{layer}.mlp.fc1.weight") for layer in (1, 2, 3)]
    assert weights[0] is weights[1] is weights[2]
    assert unique_parameters(model) == result.record["parameters_after"]
    old, new = (json.loads((folder / "config.json").read_text()) for folder in (merged_vit, out))
    assert {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)} <= {"transformers_version"}
    assert "Loss on held-out images" in (out / "README.md").read_text()


def test_low_rank_updates_train_images_too(merged_vit, digits, tmp_path):
    record = recover(str(merged_vit), digits(lora_rank=4, steps=40), tmp_path / "out").record
    held_out = record["recovery"]["held_out"]
    assert held_out["loss_after"] < 0.99 * held_out["loss_before"]
    assert record["recovery"]["parameters_trained"] < record["parameters_after"]


def test_distilling_a_classifier_from_itself_has_nothing_to_learn(vit, digits, tmp_path):
    """Without dropout, which the pupil alone has."""
    still = tmp_path / "still"
    model = ViTForImageClassification.from_pretrained(vit, hidden_dropout_prob=0.0)
    model.save_pretrained(still)
    Images().processor(vit).save_pretrained(still)
    chosen = digits(steps=2, learning_rate=1e-7, original=str(still), distill_weight=1.0)
    record = recover(str(still), chosen, tmp_path / "out").record
    assert [point["loss"] for point in record["recovery"]["loss_curve"]] == pytest.approx([0, 0], abs=1e-6)


def test_original_with_other_classes_is_refused(vit, digits, tmp_path):
    other = tmp_path / "other"
    ViTForImageClassification(ViTConfig(image_size=8, patch_size=2, num_labels=9)).save_pretrained(other)
    Images().processor(vit).save_pretrained(other)
    with pytest.raises(UserInputError, match=r"other classes, than .* \(9 and 10 outputs\)"):
        recover(str(vit), digits(original=str(other)), tmp_path / "out")


def test_loss_that_is_not_finite_stops_with_advice(vit, digits, tmp_path):
    with pytest.raises(NumericsError, match=r"at step \d+ of 100.*--learning-rate \(now 1e\+30\)"):
        recover(str(vit), digits(learning_rate=1e30), tmp_path / "out")
    with pytest.raises(NumericsError, match="validation split of digits is not finite"):
        recover(str(vit), digits(steps=1, learning_rate=1e38), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": "wikipedia-sample"}, "unknown image source.*'wikipedia-sample'.*digits"),
        ({"batch_tokens": 16, "seqlen": 16}, "seqlen=16 is for text"),
    ],
)
def test_settings_for_text_are_refused(vit, digits, tmp_path, changes, message):
    with pytest.raises(UserInputError, match=message):
        recover(str(vit), digits(**changes), tmp_path / "out")


def test_a_batch_that_does_not_hold_one_image_is_refused(vit, digits, tmp_path):
    large = tmp_path / "large"
    sizes = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 4}
    ViTForImageClassification(ViTConfig(**sizes, image_size=48, patch_size=2, num_labels=10)).save_pretrained(large)
    maker = Images().processor(vit)
    maker.size, maker.crop_size = {"shortest_edge": 48}, {"height": 48, "width": 48}
    maker.save_pretrained(large)
    with pytest.raises(UserInputError, match=r"batch_tokens=512 is less than one example .* 577 tokens"):
        recover(str(large), digits(), tmp_path / "out")


def test_encoders_of_text_are_refused(checkpoint, settings, tmp_path):
    folder = tmp_path / "bert"
    build("bert").save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((checkpoint / name).read_bytes())
    with pytest.raises(UnsupportedModelError, match="bert is an encoder of text"):
        recover(str(folder), settings(), tmp_path / "out")
