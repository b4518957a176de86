"""The folder for things that are slow to make and safe to delete."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return `$NEUROMELD_CACHE`, or `~/.cache/neuromeld` where that is not set.  It may not exist yet."""
    return Path(os.environ.get("NEUROMELD_CACHE") or Path.home() / ".cache" / "neuromeld")
