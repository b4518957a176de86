"""`file:FOLDER`: the user's own images, in one folder for each class."""

from pathlib import Path

from neuromeld.data.labelled import LabelledImages, select_split
from neuromeld.data.splits import Split
from neuromeld.errors import UserInputError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def folder_images(folder: Path, split: Split) -> LabelledImages:
    """Return the images of one split in FOLDER/CLASS/FILE, at any depth below CLASS; other files are not looked at."""
    if not folder.is_dir():
        raise UserInputError(f"file:{folder} is not a folder; give one that holds a folder of images for each class")
    found = {
        place.name: [path for path in sorted(place.rglob("*")) if path.suffix.lower() in SUFFIXES and not path.is_dir()]
        for place in sorted(folder.iterdir())
        if place.is_dir()
    }
    classes = tuple(name for name, paths in found.items() if paths)
    if not classes:
        raise UserInputError(f"{folder} holds no folder of images ({', '.join(SUFFIXES)}) for each class")
    images = ((path, label) for label, name in enumerate(classes) for path in found[name])
    return LabelledImages(classes, *select_split(images, split))
