"""A language model with an image tower, calibrated on a folder of images with captions."""

import json
from copy import deepcopy

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPImageProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from neuromeld import calibration_batches, compress_model, make_plan, parse_recipe
from neuromeld.data.calibration import Calibration
from neuromeld.model.capture import IGNORED
from neuromeld.model.predictions import predictions

WORDS = [f"w{number}" for number in range(90)]
IMAGE, PATCHES = 3, 16
TEXT = {"model_type": "llama", "vocab_size": 97, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
TEXT |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
TOWER = {"model_type": "clip_vision_model", "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2}
TOWER |= {"num_attention_heads": 4, "image_size": 16, "patch_size": 4, "projection_dim": 24}


@pytest.fixture
def llava(tmp_path):
    """A checkpoint folder, and a folder with 60 images."""
    torch.manual_seed(0)
    config = LlavaConfig(text_config=TEXT, vision_config=TOWER, image_token_id=IMAGE)
    model = LlavaForConditionalGeneration(config)
    model.save_pretrained(tmp_path / "model")
    vocabulary = {
        piece: n for n, piece in enumerate(["<pad>", "<s>", "</s>", "<image>", "<unk>", "USER", "ASK", *WORDS])
    }
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, **special, extra_special_tokens={"image_token": "<image>"}
    )
    size = {"height": 16, "width": 16}
    images = CLIPImageProcessor(size=size, crop_size=size)
    processor = LlavaProcessor(
        images, tokenizer, patch_size=4, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    processor.save_pretrained(tmp_path / "model")
    folder, random = tmp_path / "images", np.random.default_rng(0)
    folder.mkdir()
    lines = []
    for number in range(60):
        Image.fromarray(random.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        lines.append(f"{number}.png\t{' '.join(random.choice(WORDS, 5 + number % 4))}\n")
    (folder / "captions.tsv").write_text("".join(lines))
    return tmp_path / "model", folder


def test_pairs_are_read_as_the_processor_does(llava):
    model_folder, folder = llava
    batches = calibration_batches(str(model_folder), Calibration(source=f"file:{folder}", tokens=600))
    assert sum(batch["input_ids"].numel() for batch in batches[:-1]) < 600
    for batch in batches:
        ids, labels = batch["input_ids"], batch["labels"]
        assert int((ids == IMAGE).sum()) == PATCHES
        assert batch["pixel_values"].shape == (1, 3, 16, 16)
        kept = labels != IGNORED
        assert torch.equal(labels[:, :-1][kept[:, :-1]], ids[:, 1:][kept[:, :-1]])
        assert int(kept.sum()) == ids.numel() - PATCHES - int(ids[0, 0] != IMAGE)
    model = AutoModelForImageTextToText.from_pretrained(model_folder).eval()
    with torch.no_grad():
        found = predictions(model, batches[0])
        wanted = model(**{name: value for name, value in batches[0].items() if name != "labels"}).logits
    kept = batches[0]["labels"] != IGNORED
    torch.testing.assert_close(found.head(found.hidden_nd), wanted[kept])


def test_the_text_model_is_narrowed_by_what_it_reads_of_images(llava, cli, tmp_path):
    model_folder, folder = llava
    small = tmp_path / "small"
    options = ["--ffn-ratio", "0.5", "--calibration", f"file:{folder}", "--calibration-tokens", "600"]
    code, _, stderr = cli("compress", str(model_folder), str(small), *options, "--no-evaluate")
    assert code == 0, stderr
    again = AutoModelForImageTextToText.from_pretrained(small).eval()
    assert again.config.text_config.intermediate_size == 32
    assert isinstance(AutoProcessor.from_pretrained(small), LlavaProcessor)
    record = json.loads((small / "record.json").read_text())
    assert record["calibration"]["source"] == f"file:{folder}"
    batches = calibration_batches(str(model_folder), Calibration(source=f"file:{folder}", tokens=600))
    model = AutoModelForImageTextToText.from_pretrained(model_folder).eval()
    tower = deepcopy(model.model.vision_tower.state_dict())
    recipe = parse_recipe({"ffn": {"ratio": 0.5}, "calibration": {"tokens": 600, "source": f"file:{folder}"}})
    wanted = compress_model(model, make_plan(model, recipe), batches).model
    read = {name: value for name, value in batches[0].items() if name != "labels"}
    with torch.no_grad():
        torch.testing.assert_close(again(**read).logits, wanted(**read).logits)
    assert all(torch.equal(value, tower[name]) for name, value in again.model.vision_tower.state_dict().items())


def test_layers_are_chosen_by_captions(llava, cli, tmp_path):
    model_folder, folder = llava
    small = tmp_path / "small"
    options = ["--drop-layers", "1", "--calibration", f"file:{folder}", "--calibration-tokens", "600"]
    code, _, stderr = cli("compress", str(model_folder), str(small), *options, "--no-evaluate")
    assert code == 0, stderr
    assert AutoModelForImageTextToText.from_pretrained(small).config.text_config.num_hidden_layers == 2


def test_what_cannot_be_read_is_said(llava, cli, tmp_path):
    model_folder, folder = llava
    options = ["--ffn-ratio", "0.5", "--calibration", f"file:{folder}", "--no-evaluate", "--calibration-tokens", "600"]
    (folder / "captions.tsv").write_text("nowhere.png\ttext\n")
    code, _, stderr = cli("compress", str(model_folder), str(tmp_path / "small"), *options)
    assert code != 0
    assert "nowhere.png is not there" in " ".join(stderr.split())
    (folder / "captions.tsv").write_text("".join(f"{number}.png\tw1 w2\n" for number in range(60)))
    (model_folder / "processor_config.json").unlink()
    for name in ("preprocessor_config.json", "image_processor_config.json"):
        (model_folder / name).unlink(missing_ok=True)
    code, _, stderr = cli("compress", str(model_folder), str(tmp_path / "small"), *options)
    assert code != 0
    assert "processor" in " ".join(stderr.split())
    assert not (tmp_path / "small").exists()
