"""Images with the names of what is on them, for calibration and evaluation: named sources, and folders of files."""

from neuromeld.data.images.labelled import LabelledImages, rgb
from neuromeld.data.images.sources import IMAGE_SOURCES, read_images

__all__ = ["IMAGE_SOURCES", "LabelledImages", "read_images", "rgb"]
