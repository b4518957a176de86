"""The corpora that the installed gensim package carries as test data."""

from importlib.util import find_spec
from pathlib import Path

from neuromeld.errors import UserInputError

INSTALL = "pip install --no-deps gensim==4.4.0"


def gensim_file(name: str, *, source: str) -> Path:
    """Return the path of one corpus, found without importing gensim.  `UserInputError` when it is not installed."""
    spec = find_spec("gensim")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / "test" / "test_data" / name
        if path.is_file():
            return path
    raise UserInputError(f"the text of {source!r} comes with the gensim package, which is not installed: {INSTALL}")
