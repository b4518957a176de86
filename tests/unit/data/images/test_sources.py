import io
import struct
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from neuromeld.data.images import IMAGE_SOURCES, read_images, rgb
from neuromeld.data.labelled import content
from neuromeld.data.sources.fashion_mnist import FOLDER
from neuromeld.errors import UserInputError

SPLITS = ("calibration", "validation", "evaluation")
NEEDS_FASHION = pytest.mark.skipif(not FOLDER.is_dir(), reason="apt-get install dataset-fashion-mnist")


@pytest.fixture
def folder(tmp_path):
    """Two classes of 40 images each, one of them twice under other names."""
    draw = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name / "deep").mkdir(parents=True)
        for number in range(40):
            pixels = draw.integers(0, 256, (6, 5, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / "deep" / f"{number}.png")
            Image.fromarray(pixels).save(tmp_path / name / f"again-{number}.PNG")
        (tmp_path / name / "notes.txt").write_text("not an image")
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize("name", ["digits", "folder", pytest.param("fashion-mnist", marks=NEEDS_FASHION)])
def test_no_image_is_in_two_splits(name, folder):
    source = f"file:{folder}" if name == "folder" else name
    splits = [read_images(source, split) for split in SPLITS]
    seen = [{content(pixels) for pixels in found.pixels} for found in splits]
    assert all(seen)
    assert seen[0].isdisjoint(seen[1] | seen[2])
    assert seen[1].isdisjoint(seen[2])
    assert {found.classes for found in splits} == {splits[0].classes}
    assert all(len(found.pixels) == len(found.labels) for found in splits)


def test_splits_of_a_folder_are_all_of_it_with_its_classes(folder):
    splits = [read_images(f"file:{folder}", split) for split in SPLITS]
    paths = {path: label for found in splits for path, label in zip(found.pixels, found.labels, strict=True)}
    assert splits[0].classes == ("cat", "dog")
    assert paths.keys() == {path for path in folder.rglob("*") if path.suffix.lower() == ".png"}
    assert all(path.is_relative_to(folder / ("cat", "dog")[label]) for path, label in paths.items())


def test_first_images_are_of_several_classes(folder):
    for found in (read_images(f"file:{folder}", "calibration"), read_images("digits", "calibration")):
        assert len(set(found.labels[:20])) > 1


def test_digits_are_what_they_say():
    """The mean of each class is nearer to its own images than that of another: pixels and labels belong together."""
    found = [read_images("digits", split) for split in ("calibration", "evaluation")]
    (train, labels), (test, truth) = [(np.stack(f.pixels).reshape(-1, 64) / 255, np.array(f.labels)) for f in found]
    means = np.stack([train[labels == label].mean(0) for label in range(10)])
    guesses = ((test[:, None] - means) ** 2).sum(-1).argmin(1)
    assert (guesses == truth).mean() > 0.85
    assert train.max() == 1


@NEEDS_FASHION
def test_fashion_mnist_is_evaluated_on_its_test_set():
    sizes = {split: len(read_images("fashion-mnist", split).pixels) for split in SPLITS}
    assert sizes["evaluation"] == 10_000
    assert sizes["calibration"] + sizes["validation"] == 60_000
    assert 0.08 < sizes["validation"] / sizes["calibration"] < 0.14
    found = read_images("fashion-mnist", "evaluation")
    assert np.bincount(found.labels).tolist() == [1000] * 10
    assert found.pixels[0].shape == (28, 28)


def test_every_image_has_three_colours(folder):
    assert np.asarray(rgb(np.full((2, 3), 7, np.uint8))).tolist() == np.full((2, 3, 3), 7).tolist()
    path = read_images(f"file:{folder}", "calibration").pixels[0]
    assert np.array_equal(np.asarray(rgb(path)), np.asarray(Image.open(path)))


def test_what_is_wrong_is_said(folder, tmp_path_factory):
    with pytest.raises(UserInputError, match="Did you mean 'fashion-mnist'"):
        read_images("fashion", "calibration")
    with pytest.raises(UserInputError, match="is not a folder"):
        read_images(f"file:{folder}/cat/notes.txt", "calibration")
    with pytest.raises(UserInputError, match="holds no folder of images"):
        read_images(f"file:{tmp_path_factory.mktemp('empty')}", "calibration")
    (folder / "cat" / "bad.png").write_text("not a PNG")
    with pytest.raises(UserInputError, match=r"bad\.png cannot be read as an image"):
        rgb(folder / "cat" / "bad.png")
    assert set(IMAGE_SOURCES) == {"fashion-mnist", "digits"}


def png(width: int, height: int) -> bytes:
    """A PNG that says that it has this size, with a few bytes of pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


def saved(mode: str, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)).convert(mode).save(
        file, kind, **options
    )
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [b"", b"text", png(10**5, 10**5), png(20, 20), png(0, 5), saved("RGB", "JPEG")[:300], saved("RGB", "TIFF")[:60],
     saved("F", "TIFF"), saved("I", "TIFF")],
)  # fmt: skip
def test_what_is_no_image_is_one_message(tmp_path, data):
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(UserInputError, match=r"a\.png cannot be read as an image: ."):
        rgb(tmp_path / "a.png")


@settings(max_examples=150)
@given(
    kind=st.sampled_from(
        [("RGB", "PNG"), ("P", "GIF"), ("CMYK", "JPEG"), ("LA", "PNG"), ("1", "BMP"), ("RGB", "WEBP")]
    ),
    place=st.integers(0, 400),
    values=st.binary(min_size=1, max_size=4),
    cut=st.integers(0, 100),
)
def test_any_damage_is_an_image_or_one_message(kind, place, values, cut):
    data = bytearray(saved(*kind))
    place %= len(data)
    data[place : place + len(values)] = values
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.png"
        path.write_bytes(data[: len(data) - cut])
        try:
            mode = rgb(path).mode
        except UserInputError as error:
            mode = "RGB" * str(error).startswith(f"{path} cannot be read as an image")
    assert mode == "RGB"


def test_sixteen_bits_keep_their_brightness(tmp_path):
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(values).save(tmp_path / "a.png")
    grey = np.asarray(rgb(tmp_path / "a.png"))[:, :, 0]
    np.testing.assert_allclose(grey, values / 257, atol=1)


def test_what_is_no_file_is_passed_over_or_named(folder):
    before = read_images(f"file:{folder}", "calibration")
    (folder / "cat" / "folder.png").mkdir()
    assert read_images(f"file:{folder}", "calibration").pixels == before.pixels
    (folder / "cat" / "link.png").symlink_to("none")
    with pytest.raises(UserInputError, match=r"link\.png is not a file, or a link to none"):
        read_images(f"file:{folder}", "calibration")


def test_too_few_images_for_a_split_are_refused(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.png").write_bytes(saved("RGB", "PNG"))
    with pytest.raises(UserInputError, match="of 1 images none falls to the"):
        [read_images(f"file:{tmp_path}", split) for split in SPLITS]
