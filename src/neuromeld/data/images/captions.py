"""Images with a text each: a folder of images and `captions.tsv`, a line `NAME<TAB>text` for each."""

from neuromeld.data.listed import ListedFile, holds_table, listed_files
from neuromeld.data.splits import Split

CAPTIONS = "captions.tsv"


def holds_captions(source: str | None) -> bool:
    """Tell whether a source is a folder of images with captions."""
    return holds_table(source, CAPTIONS)


def captioned_images(source: str, split: Split) -> list[ListedFile]:
    """Return the images of one split of `file:FOLDER` with their captions, in the order of these.

    Raises `UserInputError` for a folder or a line that cannot be read.
    """
    needed = (
        f"images with captions: give file:FOLDER, a folder with images and {CAPTIONS}, in which every line is NAME, a "
        "tab and the caption"
    )
    return listed_files(source, split, CAPTIONS, needed)
