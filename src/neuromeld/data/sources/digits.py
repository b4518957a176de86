"""The handwritten digits that come with scikit-learn."""

import numpy as np

from neuromeld.data.labelled import INSTALL, LabelledImages, select_split
from neuromeld.data.sources import Source
from neuromeld.data.splits import Split
from neuromeld.errors import UserInputError


def digits(split: Split) -> LabelledImages:
    """1,797 handwritten digits of 8 x 8 pixels, in the package scikit-learn."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserInputError(f"digits come with scikit-learn, which cannot be imported ({error}): {INSTALL}") from error
    found = load_digits()
    grey = (found.images * (255 / 16)).astype(np.uint8)
    return LabelledImages(tuple("0123456789"), *select_split(zip(grey, found.target.tolist(), strict=True), split))


SOURCES = (Source(digits, source="scikit-learn", kind="images"),)
