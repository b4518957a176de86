"""The version, once."""

from importlib.metadata import version

__version__ = "0.1.0"


def versions() -> dict[str, str]:
    """Return the versions of neuromeld and of what its results depend on most, for every measured number."""
    return {"neuromeld": __version__} | {name: version(name) for name in ("torch", "transformers")}
