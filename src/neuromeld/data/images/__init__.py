"""Images with the names of what is on them, for calibration and evaluation: named sources, and folders of files."""

from neuromeld.data.images.reading import read_images
from neuromeld.data.labelled import LabelledImages, rgb
from neuromeld.data.sources import IMAGE_SOURCES

__all__ = ["IMAGE_SOURCES", "LabelledImages", "read_images", "rgb"]
