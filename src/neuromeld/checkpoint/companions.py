"""Copy what lies in a model's folder beside weights, config and tokenizer to the smaller model."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from neuromeld.checkpoint.stated import SENTENCE_MODULES, read_json
from neuromeld.errors import CheckpointError, UnsupportedModelError

OF_ANY_WIDTH = ("Transformer", "Pooling", "Normalize", "Dropout")
"""Modules of sentence-transformers that work behind a model of any width; the others have weights made for one."""

FOLDERS = ("additional_chat_templates",)

NOT_COPIED = re.compile(
    r"config\.json|README\.md|record\.json|recipe\.yaml|report\.html|\..*"  # written anew
    r"|.*\.(safetensors|bin|pt|pth|ckpt|h5|msgpack|ot|onnx|onnx_data|gguf|ggml|tflite|npz|pkl)|.*\.index\.json"
    r"|trainer_state\.json|training_args.*|.*_results\.json|params\.json|quantize_config\.json"
)
"""Other files with these weights, or about them: they would not be true of the smaller model."""

CARD_KEYS = ("license", "license_name", "license_link", "base_model", "language")


@dataclass(frozen=True)
class Companions:
    """The files and folders that go along, and those that are left, by names relative to the folder."""

    copied: tuple[str, ...]
    left: tuple[str, ...]


def find_companions(folder: Path) -> Companions:
    """Find what lies beside the model in `folder`; code is left, and so are folders that mean nothing here."""
    modules = {path for path, _ in sentence_modules(folder) if path}
    copied, left = [], []
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if path.name in modules or path.name in FOLDERS:
                copied.append(path.name)
            elif not path.name.startswith("."):
                left.append(f"{path.name}/")
        elif not NOT_COPIED.fullmatch(path.name):
            (left if path.suffix == ".py" or not path.is_file() else copied).append(path.name)
    return Companions(tuple(copied), tuple(left))


def sentence_modules(folder: Path) -> list[tuple[str, str]]:
    """Return folder and kind of each module that sentence-transformers runs; none where it is not its layout.

    Raises `CheckpointError` for a list that is damaged, `UnsupportedModelError` for modules with code of their own.
    """
    path = folder / SENTENCE_MODULES
    if not path.is_file():
        return []
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
        found = [(str(module["path"]), str(module["type"])) for module in stated]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: it is no list of modules of sentence-transformers") from error
    for place, kind in found:
        if place and (Path(place).name != place or place == ".." or (folder / place).is_symlink()):
            raise CheckpointError(f"{path} names {place!r}, which is not a folder beside it")
        if not kind.startswith("sentence_transformers."):
            raise UnsupportedModelError(
                f"{path} names the module {kind}, whose code comes with the model; such code is never run or copied"
            )
    return [(place, kind.rpartition(".")[2]) for place, kind in found]


def check_companions(folder: Path, *, width: tuple[int, int], layers: tuple[int, int]) -> list[str]:
    """Return warnings of what is left behind.

    width, layers   of the model before and after

    Raises `UnsupportedModelError` for a module of sentence-transformers that was made for the model as it was.
    """
    for place, kind in sentence_modules(folder):
        if kind not in OF_ANY_WIDTH and width[0] != width[1]:
            raise UnsupportedModelError(
                f"{folder / SENTENCE_MODULES} runs the module {kind} ({place}) behind the model, whose weights read a "
                f"width of {width[0]}, not of {width[1]}; keep the width (leave out --hidden-ratio and --hidden-size)"
            )
        if kind == "WeightedLayerPooling" and layers[0] != layers[1]:
            raise UnsupportedModelError(
                f"{folder / SENTENCE_MODULES} runs the module {kind} ({place}), which weighs all {layers[0]} layers; "
                "keep them (leave out --drop-layers)"
            )
    left = find_companions(folder).left
    return [f"left behind, as it is not part of the model: {', '.join(left)}"] if left else []


def copy_companions(source: Path, out: Path, *, width: int | None = None) -> None:
    """Copy what goes along and is not in `out` yet; poolings are told the `width` of the smaller model."""
    for name in find_companions(source).copied:
        if (source / name).is_dir():
            shutil.copytree(source / name, out / name, dirs_exist_ok=True, ignore_dangling_symlinks=True)
        elif not (out / name).exists():
            shutil.copyfile(source / name, out / name)
    for place, kind in sentence_modules(source):
        path = out / place / "config.json"
        if kind == "Pooling" and place and width is not None and path.is_file():
            config = read_json(path)
            config |= {key: width for key in ("word_embedding_dimension", "embedding_dimension") if key in config}
            path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def card_facts(folder: Path) -> dict[str, Any]:
    """Return what the front matter of a folder's README.md says of license, origin and language."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return {}
    parts = re.split(r"^---\s*$", text, maxsplit=2, flags=re.MULTILINE)
    if len(parts) < 3 or parts[0].strip("\ufeff \n"):
        return {}
    try:
        matter = yaml.safe_load(parts[1])
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    if not isinstance(matter, dict):
        return {}
    return {key: matter[key] for key in CARD_KEYS if _is_plain(matter.get(key))}


def _is_plain(value: Any) -> bool:
    """Tell whether a value of a card is a name, or a list of them."""
    names = value if isinstance(value, list) else [value]
    return bool(names) and all(isinstance(name, str) and name for name in names)
