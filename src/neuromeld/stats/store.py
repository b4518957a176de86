"""Statistics on disk, so that a calibration pass is paid once."""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from neuromeld.runtime.cache import cache_folder
from neuromeld.runtime.progress import warn


def cache_key(**facts: object) -> str:
    """Return the sha256, in hex, of the facts as canonical JSON: all that the statistics depend on (model, corpus,
    settings).
    """
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


class StatisticsStore:
    """A folder with one safetensors file per key; by default `stats` in the cache folder.

    A file appears whole or not at all, and one that was damaged later counts as missing.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache_folder() / "stats"

    def save(self, key: str, stats: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Write the `state()` of each named statistic, replacing what the key held; a warning where that fails."""
        flat = {
            f"{name}/{part}": value.cpu().contiguous() for name, state in stats.items() for part, value in state.items()
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.folder) as beside:
                unfinished = Path(beside) / "unfinished"
                save_file(flat, unfinished, metadata={"sha256": _digest(flat)})
                unfinished.replace(self._path(key))
        except (OSError, SafetensorError) as error:  # a cache spares time, and its loss is no loss of work
            warn(f"what was computed is not kept, as {self.folder} cannot be written: {error}")

    def load(self, key: str) -> dict[str, dict[str, Tensor]] | None:
        """Return the states saved under `key`, or None if there are none to be trusted."""
        try:
            with safe_open(self._path(key), framework="pt") as file:
                flat = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
                recorded = (file.metadata() or {}).get("sha256")
        except (OSError, SafetensorError):
            return None
        if recorded != _digest(flat):
            return None
        stats: dict[str, dict[str, Tensor]] = {}
        for name, value in flat.items():
            statistic, part = name.rsplit("/", 1)
            stats.setdefault(statistic, {})[part] = value
        return stats

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"


def _digest(flat: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(flat):
        digest.update(name.encode())
        digest.update(flat[name].numpy().tobytes())
    return digest.hexdigest()
