"""Image models on the command line."""

import json

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    BitImageProcessorPil,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from cli.commands import check_grid
from neuromeld.data.images import read_images
from neuromeld.evaluation import unique_parameters
from neuromeld.modalities import Images
from neuromeld.modalities.images import image_batch

CALIBRATION = ["--calibration", "digits", "--calibration-tokens", 1200]


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A classifier of digits that was never trained, and the encoder in it, as folders."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 12, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 16}
    config = ViTConfig(**sizes, image_size=8, patch_size=4, num_labels=10, initializer_range=0.5)
    folders = []
    for model_class in (ViTForImageClassification, ViTModel):
        folder = tmp_path_factory.mktemp("models") / model_class.__name__
        model_class(config).save_pretrained(folder)
        BitImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}).save_pretrained(folder)
        folders.append(folder)
    return folders


def test_ffns_are_merged_and_the_result_is_evaluated_beside_the_original(cli, vit, tmp_path):
    classifier, _ = vit
    out = tmp_path / "small"
    code, stdout, stderr = cli("compress", classifier, out, "--share-ffns", 2, *CALIBRATION, "--json")
    assert code == 0, stderr
    record = json.loads(stdout)
    assert len(record["windows"]) == 3
    assert record["calibration"]["source"] == "digits"
    assert record["calibration"]["tokens"] == 1200
    told = "from transformers import AutoImageProcessor, AutoModelForImageClassification\n"
    assert told in (out / "README.md").read_text()
    assert told in (out / "report.html").read_text()
    assert "pipeline_tag: image-classification\n" in (out / "README.md").read_text()
    model = AutoModelForImageClassification.from_pretrained(out)
    assert unique_parameters(model) == record["parameters_after"]
    code, stdout, stderr = cli("evaluate", classifier, out, "--images", "digits", "--num-images", 100, "--json")
    assert code == 0, stderr
    dense, small = json.loads(stdout)["models"].values()
    assert small["parameters"] == record["parameters_after"]
    assert dense["tokens_per_image"] == 5
    assert dense["tasks"]["digits"]["protocol"]["images"] == 100
    batch = image_batch(read_images("digits", "evaluation"), range(100), Images().processor(out), model.config)
    with torch.no_grad():
        guesses = model.eval()(batch["pixel_values"]).logits.argmax(1)
    assert small["tasks"]["digits"]["accuracy"] == pytest.approx((guesses == batch["labels"]).double().mean().item())
    assert small["retained_performance"]["ratio"] == pytest.approx(
        small["tasks"]["digits"]["accuracy"] / dense["tasks"]["digits"]["accuracy"]
    )
    assert "digits (top-1)" in cli("evaluate", classifier, out, "--images", "digits")[1]


def test_an_encoder_without_head_is_made_smaller_where_no_loss_is_needed(cli, vit, tmp_path):
    _, encoder = vit
    code, _, stderr = cli("compress", encoder, tmp_path / "out", "--share-ffns", 2, *CALIBRATION)
    assert code == 3
    assert "cannot be chosen by their loss" in stderr
    options = ["--share-ffns-at", "1-2", "--ffn-size", 12, *CALIBRATION, "--json"]
    code, stdout, stderr = cli("compress", encoder, tmp_path / "out", *options)
    assert code == 0, stderr
    assert unique_parameters(AutoModel.from_pretrained(tmp_path / "out")) == json.loads(stdout)["parameters_after"]
    code, _, stderr = cli("evaluate", encoder, "--images", "digits")
    assert code == 2
    assert "ViTModel has no loss" in stderr


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("image", ["--text", "news-sample"], "--text is for models that read tokens"),
        ("image", ["--tokens", "64"], "--tokens is for models that read tokens"),
        ("image", ["--seqlen", "512"], "--seqlen is for models that read tokens"),
        ("image", ["--speed"], "--speed is for models that read tokens"),
        ("image", ["--images", "digit"], "Did you mean 'digits'?"),
        ("text", ["--images", "digits"], "--images is for models that read images"),
        ("both", ["--images", "digits"], "models that read images and tokens"),
    ],
)
def test_data_of_another_kind_is_refused(cli, vit, checkpoint, model, options, message):
    models = {"image": [vit[0]], "text": [checkpoint], "both": [vit[0], checkpoint]}[model]
    code, stdout, stderr = cli("evaluate", *models, *options, "--json")
    assert (code, stdout) == (2, "")
    assert message in stderr


def test_classes_that_the_model_does_not_know(cli, vit, tmp_path):
    torch.manual_seed(0)
    model = ViTForImageClassification.from_pretrained(vit[0], num_labels=3, ignore_mismatched_sizes=True)
    model.save_pretrained(tmp_path / "model")
    Images().processor(vit[0]).save_pretrained(tmp_path / "model")
    code, _, stderr = cli("evaluate", tmp_path / "model", "--images", "digits")
    assert code == 2
    assert "does not tell the classes of digits apart" in stderr
    code, _, stderr = cli("compress", tmp_path / "model", tmp_path / "out", "--share-ffns", 2, *CALIBRATION)
    assert code == 2
    assert "has to be given as labels" in stderr


def test_a_budget_is_refused(cli, vit, tmp_path):
    code, _, stderr = cli("compress", vit[0], tmp_path / "out", "--keep", 0.8)
    assert code == 2
    assert "budgets are for language models" in stderr


def test_layers_of_an_image_model_are_compared(cli, vit):
    code, stdout, stderr = cli("similarity", vit[1], *CALIBRATION, "--json")
    assert code == 0, stderr
    found = json.loads(stdout)
    assert found["calibration"]["source"] == "digits"
    assert found["calibration"]["tokens"] == 1200
    ffn = torch.tensor(found["similarity"]["ffn"])
    assert ffn.shape == (4, 4)
    torch.testing.assert_close(ffn.diagonal(), torch.ones(4))


def test_images_are_listed(cli):
    assert {row["name"] for row in json.loads(cli("list", "images", "--json")[1])["images"]} == {
        "digits",
        "fashion-mnist",
    }


def test_a_grid_measures_images(cli, vit, tmp_path):
    check_grid(cli, tmp_path, vit[0], "images", "digits", "--num-images")
