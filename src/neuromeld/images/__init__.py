"""Images with the names of what is on them, for calibration and evaluation: named sources, and folders of files."""

from neuromeld.images.labelled import LabelledImages, rgb
from neuromeld.images.sources import IMAGE_SOURCES, read_images

__all__ = ["IMAGE_SOURCES", "LabelledImages", "read_images", "rgb"]
