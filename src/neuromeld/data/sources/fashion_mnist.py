"""FashionMNIST, 28 x 28 grey images of clothes (arXiv:1708.07747), as Debian packages it."""

import gzip
from pathlib import Path

import numpy as np

from neuromeld.data.labelled import LabelledImages, by_content
from neuromeld.data.sources import Source
from neuromeld.data.splits import Split, split_of_content
from neuromeld.errors import UserInputError

FOLDER = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def fashion_mnist(split: Split) -> LabelledImages:
    """70,000 grey images of ten kinds of clothes, 28 x 28 pixels, in the Debian package dataset-fashion-mnist.

    Evaluation is the test set of 10,000, as its authors divided it; of the others one in ten is validation.
    """
    part = "t10k" if split == "evaluation" else "train"
    images = by_content(zip(_read(f"{part}-images-idx3"), _read(f"{part}-labels-idx1").tolist(), strict=True))
    if split != "evaluation":
        images = [e for e in images if (split_of_content(e[0]) == "validation") == (split == "validation")]
    return LabelledImages(CLASSES, [pixels for _, pixels, _ in images], [label for _, _, label in images])


def _read(name: str) -> np.ndarray:
    """Return the array in an IDX file: its shape is in the header, a big-endian number for each axis."""
    path = FOLDER / f"{name}-ubyte.gz"
    try:
        data = gzip.decompress(path.read_bytes())
    except OSError as error:
        raise UserInputError(
            f"fashion-mnist is not in {FOLDER} ({error.strerror or error}): apt-get install dataset-fashion-mnist, "
            "or give images of your own as file:FOLDER"
        ) from error
    shape = np.frombuffer(data, ">i4", count=data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


SOURCES = (Source(fashion_mnist, source="arXiv:1708.07747", kind="images"),)
