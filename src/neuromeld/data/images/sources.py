"""Where images come from.  To add a source, write its file and list it here."""

from collections.abc import Callable

from neuromeld.data.images.digits import digits
from neuromeld.data.images.fashion_mnist import fashion_mnist
from neuromeld.data.images.folder import folder_images
from neuromeld.data.images.labelled import LabelledImages
from neuromeld.data.splits import Split
from neuromeld.data.text.reading import local_path
from neuromeld.registry import Registry

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
        return folder_images(local_path(source), split)
    return IMAGE_SOURCES[source](split)
