"""Images by name, or from a folder."""

from neuromeld.data.images.folder import folder_images
from neuromeld.data.labelled import LabelledImages
from neuromeld.data.sources import IMAGE_SOURCES
from neuromeld.data.splits import Split
from neuromeld.data.text.reading import local_path


def read_images(source: str, split: Split) -> LabelledImages:
    """Return the images of one split of a named source or of `file:FOLDER`."""
    if source.startswith("file:"):
        return folder_images(local_path(source), split)
    images: LabelledImages = IMAGE_SOURCES[source](split)
    return images
