"""Where images come from.  To add a source, write its file and list it here."""

from collections.abc import Callable
from pathlib import Path

from neuromeld.images.digits import digits
from neuromeld.images.fashion_mnist import fashion_mnist
from neuromeld.images.folder import folder_images
from neuromeld.images.labelled import LabelledImages
from neuromeld.registry import Registry
from neuromeld.text.documents import Split

IMAGE_SOURCES: Registry[Callable[[Split], LabelledImages]] = Registry(
    "image source (or file:FOLDER)",
    {
        "fashion-mnist": fashion_mnist,
        "digits": digits,
    },
)


def read_images(source: str, split: Split) -> LabelledImages:
    """The images of one split of a named source or of `file:FOLDER`."""
    if source.startswith("file:"):
        return folder_images(Path(source.removeprefix("file:")), split)
    return IMAGE_SOURCES[source](split)
