import pytest
import torch
from transformers import BitImageProcessorPil, ViTConfig

from contract.families import FAMILIES
from neuromeld.archs.classes import stock_class
from neuromeld.data.calibration import Calibration
from neuromeld.data.images import read_images
from neuromeld.errors import CheckpointError, UserInputError
from neuromeld.modalities import Images, inputs_of, reader_for
from neuromeld.modalities.images import known_classes, positions_of
from neuromeld.planning.plan import meta_model

PROCESSOR = BitImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
TINY = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
CONFIG = ViTConfig(**TINY, image_size=8, patch_size=4, num_labels=10)
DIGITS = Calibration(source="digits", tokens=600)
EACH = 5


@pytest.mark.parametrize("split", ["calibration", "validation"])
def test_batches_are_images_of_the_split_as_the_processor_makes_them(split):
    found = getattr(Images(), split)(DIGITS, PROCESSOR, CONFIG, 600)
    images = read_images("digits", split)
    assert found.num_tokens == 600
    assert (found.source, found.split) == ("digits", split)
    assert len(found.batches) >= 8
    pixels, labels = (torch.cat([batch[name] for batch in found.batches]) for name in ("pixel_values", "labels"))
    assert len(pixels) == 600 // EACH
    everything = PROCESSOR(images=[*map(rgb_of, images.pixels)], return_tensors="pt")["pixel_values"]
    for value, label in zip(pixels, labels, strict=True):
        (same,) = (everything == value).flatten(1).all(1).nonzero()[:1].tolist()
        assert images.labels[same[0]] == label


def rgb_of(pixels):
    from PIL import Image

    return Image.fromarray(pixels).convert("RGB")


def test_calibration_is_drawn_by_the_seed_and_validation_is_not():
    first, second, third = (
        Images().calibration(DIGITS.model_copy(update={"seed": seed}), PROCESSOR, CONFIG, 600) for seed in (0, 0, 1)
    )
    assert first.sha256 == second.sha256 != third.sha256
    fixed = [
        Images().validation(DIGITS.model_copy(update={"seed": seed}), PROCESSOR, CONFIG, 600).sha256 for seed in (0, 1)
    ]
    assert fixed[0] == fixed[1]


def test_training_has_every_image_of_the_calibration_split():
    pool = Images().training(DIGITS, PROCESSOR, CONFIG)
    images = read_images("digits", "calibration")
    assert pool.num_examples == len(images.pixels)
    assert pool.num_tokens == EACH * len(images.pixels)
    everything = PROCESSOR(images=[*map(rgb_of, images.pixels)], return_tensors="pt")["pixel_values"]
    batch = pool.batch_of([7, 0, len(images.pixels) - 1])
    assert torch.equal(batch["pixel_values"], everything[[7, 0, -1]])
    assert batch["labels"].tolist() == [images.labels[i] for i in (7, 0, -1)]


def test_training_data_is_told_apart_by_what_the_processor_makes_of_it():
    other = BitImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}, image_mean=[0, 0, 0])
    first, again, second = (Images().training(DIGITS, p, CONFIG).sha256 for p in (PROCESSOR, PROCESSOR, other))
    assert first == again != second


@pytest.mark.parametrize("tokens", [EACH - 1, 10**6])
def test_a_number_of_tokens_that_cannot_be(tokens):
    with pytest.raises(UserInputError, match=f"{tokens} tokens are {tokens // EACH} images of 5 tokens each"):
        Images().calibration(DIGITS, PROCESSOR, CONFIG, tokens)


def test_windows_are_for_text():
    with pytest.raises(UserInputError, match="seqlen=16 is for text"):
        Images().calibration(Calibration(source="digits", tokens=600, seqlen=16), PROCESSOR, CONFIG, 600)


IMAGES = [family for family in FAMILIES if inputs_of(FAMILIES[family]()) == "images"]


@pytest.mark.parametrize("family", IMAGES)
def test_positions_are_those_that_the_layers_see(family):
    """Patches of 4 x 4 pixels, the class token and, in DeiT, that of the teacher; counted without any weights."""
    config = FAMILIES[family]()
    beside = 2 if config.model_type == "deit" else 1
    pixels = torch.zeros(1, 3, 16, 16)
    assert positions_of(meta_model(config), pixels.to("meta")) == 16 + beside
    assert positions_of(stock_class(config)(config).eval(), pixels) == 16 + beside


def test_classes_are_found_by_name_or_by_number_or_not_at_all():
    names = ("b", "A", "c")
    named = ViTConfig(label2id={"c": 0, "a": 1, "x": 2, "B": 3}, id2label={0: "c", 1: "a", 2: "x", 3: "B"})
    assert known_classes(named, names) == [3, 1, 0]
    assert known_classes(ViTConfig(num_labels=3), names) == [0, 1, 2]
    assert known_classes(ViTConfig(num_labels=4), names) is None
    assert known_classes(named, ("b", "z")) is None
    data = Images().calibration(DIGITS, PROCESSOR, ViTConfig(**TINY, image_size=8, patch_size=4, num_labels=3), 600)
    assert all(batch.keys() == {"pixel_values"} for batch in data.batches)


def test_the_processor_is_the_one_beside_the_model(tmp_path):
    with pytest.raises(CheckpointError, match=r"no preprocessor_config\.json"):
        Images().processor(tmp_path)
    PROCESSOR.save_pretrained(tmp_path)
    assert Images().processor(tmp_path).crop_size == PROCESSOR.crop_size
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="image processor in .* cannot be read"):
        Images().processor(tmp_path)


def test_kinds_of_inputs():
    assert isinstance(reader_for(CONFIG), Images)
    assert inputs_of(FAMILIES["llama"]()) == "tokens"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"size": {"shortest_edge": -8}}, "cannot make a batch"),
        ({"image_mean": [0.5, 0.5]}, "cannot make a batch"),
        ({"crop_size": {"height": 4, "width": 4}}, r"does not take images of shape \(3, 4, 4\)"),
    ],
)
def test_a_processor_that_is_not_the_models(damage, message):
    processor = BitImageProcessorPil(**{"size": PROCESSOR.size, "crop_size": PROCESSOR.crop_size} | damage)
    with pytest.raises(CheckpointError, match=message):
        Images().calibration(DIGITS, processor, CONFIG, 600)
