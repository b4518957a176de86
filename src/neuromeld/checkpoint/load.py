"""Read a checkpoint folder, and refuse what transformers would repair silently or fail on obscurely."""

import re
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from neuromeld.checkpoint.converted import converted_in_files
from neuromeld.checkpoint.stated import (
    check_head,
    check_no_adapter,
    read_json,
    settle_decoder_start,
    settle_encoder,
    settle_ties,
    trusted,
)
from neuromeld.errors import CheckpointError, NumericsError, UnsupportedModelError, naming_failure
from neuromeld.model.native.block import register_native
from neuromeld.model.native.classes import model_class
from neuromeld.model.native.modeling import native_model_type
from neuromeld.runtime.memory import all_finite
from neuromeld.runtime.paging import drop_after_use, drop_pages
from neuromeld.runtime.streaming import is_streaming, move_buffers

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
"""A tokenizer has at least one of these."""

LEFTOVERS = re.compile(r"\.attn\.masked_bias$")
"""Constants that old versions of transformers stored beside the weights of GPT-2."""

HEADS = {"v_head": "A value head (trl)", "score": "A head that scores sequences", "classifier": "A classifier"}
"""What tensors of these names are, where the model that was loaded has no place for them."""

SLACK = 10**8
"""Parameters that a config may describe beyond what is stored: which are missing is said by name, once it is read."""

PICKLE_SUFFIXES = (".bin", ".pt", ".pth")


def load_config(folder: Path) -> PretrainedConfig:
    """Return the config of a model that `model_class` knows, in agreement with what the weight files hold.

    Raises `CheckpointError` for a config that is not there or not valid, `UnsupportedModelError` for a model type
    that transformers does not know or of which it has no class that is described or of a kind that is discovered, for
    another head, an adapter or a quantised model.
    """
    path = folder / "config.json"
    check_no_adapter(folder)
    if not path.is_file():
        found = ", ".join(sorted(file.name for file in folder.glob("*.gguf")))
        hint = f"; to read a GGUF file pass its path (here: {found})" if found else ""
        raise CheckpointError(f"{folder} has no config.json, so it is not a Hugging Face checkpoint{hint}")
    stated = read_json(path)
    model_type = str(stated.get("model_type"))
    if model_type.startswith(native_model_type("")):
        register_native()
    if model_type not in CONFIG_MAPPING:
        reason = (
            "it needs code that comes with the checkpoint, and such code is never run"
            if "auto_map" in stated
            else "update transformers if the model is new"
        )
        raise UnsupportedModelError(
            f"{path} has model_type {model_type!r}, unknown to transformers {transformers.__version__}: {reason}"
        )
    stated = trusted(path, stated)
    with naming_failure(f"{path} is not a valid {model_type} config"):
        config: PretrainedConfig = CONFIG_MAPPING[model_type].from_dict(stated)
    if not hasattr(config, "neuromeld"):
        settle_encoder(folder, config, _safe_files(folder))
    try:
        with naming_failure(f"{path} names no model"):
            loaded = model_class(config)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"{path}: {error}") from None
    settle_decoder_start(folder, config)
    if not hasattr(config, "neuromeld"):
        check_head(path, config, loaded)
        settle_ties(folder, config, loaded, _safe_files(folder))
    return config


def _safe_files(folder: Path) -> list[Path]:
    """Return the safetensors files that are there; none where `weight_files` finds something wrong."""
    try:
        return weight_files(folder, allow_pickle=False)
    except CheckpointError:
        return []


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer that lies beside the weights."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise CheckpointError(
            f"{folder} has no tokenizer ({', '.join(TOKENIZER_FILES)}: none is there); "
            "save it beside the model with tokenizer.save_pretrained(...)"
        )
    with naming_failure(f"the tokenizer in {folder} cannot be read"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    return tokenizer


def load_model(
    folder: Path, *, dtype: torch.dtype | None, device: str, allow_pickle: bool = False, scratch: Path | None = None
) -> PreTrainedModel:
    """Return the model in eval mode, every weight of it from the checkpoint and finite.

    dtype   None keeps the checkpoint's own
    scratch   leave the weights in their files, and those that are converted in files of this folder without a name:
              what is in memory of them is what is being used (`paging.py`)

    Inside `streaming`, weights lie in memory or in their files, and `device` is that of its window.

    Raises `CheckpointError` for files that are missing or damaged and for weights that do not match the config,
    `UnsupportedModelError` for a quantised model, `NumericsError` for NaN or infinity.
    """
    config = load_config(folder)
    files = weight_files(folder, allow_pickle=allow_pickle)
    safe = files[0].suffix == ".safetensors"
    if safe:
        _check_readable(files)
    _check_amount(folder, config, files)
    in_files = nullcontext() if scratch is None else converted_in_files(scratch)
    with naming_failure(f"transformers cannot load {folder}"), in_files:
        # Mismatched sizes are allowed only so that they are reported by name and refused below.
        found: Any = model_class(config).from_pretrained(
            folder,
            config=config,
            dtype=dtype or "auto",
            use_safetensors=safe,
            weights_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            local_files_only=True,
        )
    model: PreTrainedModel
    model, info = found
    _check_complete(folder, config, info)
    if scratch is not None:
        drop_after_use(model)
    drop_pages(_copied(_checked(folder, model)) if scratch is None else _checked(folder, model))
    if is_streaming():
        move_buffers(model)
        return model
    return model.to(device) if scratch is None else model  # type: ignore[arg-type]


def weight_files(folder: Path, *, allow_pickle: bool) -> list[Path]:
    """Return the files that hold the weights; `CheckpointError` if one is missing, or if there are only pickles."""
    for name in ("model.safetensors", *(("pytorch_model.bin",) if allow_pickle else ())):
        if (folder / name).is_file():
            return [folder / name]
        if (folder / f"{name}.index.json").is_file():
            return _shards(folder / f"{name}.index.json")
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLE_SUFFIXES)
    if pickles and not allow_pickle:
        raise CheckpointError(
            f"{folder} has only pickled weights ({_listed(pickles)}), and a pickle can run code when it is read; "
            "convert them to safetensors, or pass --allow-pickle (allow_pickle=True) to read the tensors and no code"
        )
    raise CheckpointError(f"{folder} has no weights: neither model.safetensors nor model.safetensors.index.json")


def _shards(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} is damaged: it has no weight_map")
    names = list(weight_map.values())
    if not all(isinstance(name, str) and name and Path(name).name == name for name in names):
        raise CheckpointError(f"{index} is damaged: its weight_map names something else than files of its folder")
    shards = [index.parent / name for name in sorted(set(names))]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise CheckpointError(f"{index} names files that are missing: {_listed(missing)}; download or copy them again")
    return shards


def _check_readable(files: list[Path]) -> None:
    for path in files:
        try:
            with safe_open(path, framework="pt"):  # checks the header, and the length of the file against it
                pass
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{path} is truncated or damaged ({error}, {path.stat().st_size:,} bytes); download or copy it again"
            ) from error


def _check_amount(folder: Path, config: PretrainedConfig, files: list[Path]) -> None:
    """`CheckpointError` where the config describes a model far larger than its files: none of it is allocated."""
    with naming_failure(f"{folder / 'config.json'} describes no model that transformers can build"):
        with torch.device("meta"):
            model = model_class(config)(config)
        described = sum(parameter.numel() for parameter in model.parameters())
    stored = sum(path.stat().st_size for path in files)
    if described > 2 * stored + SLACK:
        raise CheckpointError(
            f"{folder / 'config.json'} describes a model of {described:,} parameters, but the weights take {stored:,} "
            "bytes: the config is not theirs"
        )


def _check_complete(folder: Path, config: PretrainedConfig, info: dict[str, Any]) -> None:
    sizes = (f"{name} {tuple(disk)}, expected {tuple(model)}" for name, disk, model in info["mismatched_keys"])
    problems = [
        f"{len(found)} {what}: {_listed(sorted(found))}"
        for what, found in (
            ("missing tensors", info["missing_keys"]),
            ("unexpected tensors", [name for name in info["unexpected_keys"] if not LEFTOVERS.search(name)]),
            ("tensors of the wrong size", list(sizes)),
        )
        if found
    ]
    if problems:
        parts = {part for name in info["unexpected_keys"] for part in name.split(".")}
        heads = [head for part, head in HEADS.items() if part in parts]
        names, loaded = config.architectures or [], model_class(config).__name__
        raise CheckpointError(
            f"the weights in {folder} do not match its config.json: {'; '.join(problems)}"
            + (f". It was read as {loaded}, and the config names {', '.join(names)}" if loaded not in names else "")
            + (f". {' and '.join(heads)} cannot be kept: save the model without it" if heads else "")
        )


def _checked(folder: Path, model: PreTrainedModel) -> Iterator[nn.Parameter]:
    """Yield every parameter; `NumericsError` at one that holds NaN or infinity."""
    for name, parameter in model.named_parameters():
        if not all_finite(parameter):
            raise NumericsError(
                f"{name} in {folder} holds NaN or infinity as {parameter.dtype}; the checkpoint is damaged, or the "
                "weights exceed what this dtype can hold"
            )
        yield parameter


def _copied(parameters: Iterable[nn.Parameter]) -> Iterator[Tensor]:
    """Copy every parameter out of the mapped file, whose pages stay in memory for as long as one tensor lies there
    (docs/decisions/0013), and yield what it was.
    """
    for parameter in parameters:
        mapped, parameter.data = parameter.data, parameter.data.clone()
        yield mapped


def _listed(names: Iterable[str], shown: int = 8) -> str:
    names = list(names)
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
