"""Check what a checkpoint folder states about its model before any of it is believed or a weight is read."""

import json
from pathlib import Path
from typing import Any

import transformers
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import MODEL_MAPPING, PretrainedConfig

from neuromeld.errors import CheckpointError, UnsupportedModelError

IGNORED_KEYS = frozenset(
    {
        # What would make transformers fetch a kernel, or code, of the Hub.
        *("attn_implementation", "_attn_implementation", "_attn_implementation_internal"),
        *("experts_implementation", "_experts_implementation", "_experts_implementation_internal"),
        *("use_kernels", "kernel_config", "auto_map", "custom_pipelines"),
        # Other files, or other folders, in the place of these.
        *("_name_or_path", "name_or_path", "_commit_hash", "configuration_files", "transformers_weights"),
        # What a model returns beside its logits, or in their place.
        *("return_dict", "use_return_dict", "torchscript", "output_attentions", "output_hidden_states"),
    }
)

LARGEST_SIZE, MOST_LAYERS = 10**9, 2000
"""Sizes above these are slips: nothing is allocated for them."""

NO_SIZES = ("token_id", "token_index", "window", "length", "seed", "rope", "label", "task_specific")
"""Parts of the names of keys whose numbers may be of any size."""

ADAPTER = "adapter_config.json"

SENTENCE_MODULES = "modules.json"
"""The layout of sentence-transformers: a list of modules, each with a folder, that run after the model."""

QUANTISED_KEYS = ("quantization_config", "compression_config")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; `CheckpointError` for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return content


def check_no_adapter(folder: Path) -> None:
    """Raise `UnsupportedModelError` for a folder with an adapter, which transformers loads or leaves out silently."""
    path = folder / ADAPTER
    if not path.is_file():
        return
    try:
        stated = read_json(path)
    except CheckpointError:
        stated = {}
    kind, base = stated.get("peft_type") or "peft", stated.get("base_model_name_or_path")
    raise UnsupportedModelError(
        f"{path} is a {kind} adapter{f' of {base}' if base else ''}, not a model of its own, or one beside a model: "
        "merge it first (peft: AutoPeftModelForCausalLM.from_pretrained(...).merge_and_unload().save_pretrained(...), "
        f"and save the tokenizer there, too), and pass the merged model; for the model without it, remove {ADAPTER}"
    )


def trusted(path: Path, stated: dict[str, Any]) -> dict[str, Any]:
    """Return a config without what could fetch code or change what the model returns; its sizes are such as can be.

    Raises `CheckpointError` for absurd sizes, `UnsupportedModelError` for a quantised model.
    """
    if any(stated.get(key) is not None for key in QUANTISED_KEYS):
        raise UnsupportedModelError(f"{path.parent} is quantised; pass the checkpoint it was made from")
    names = stated.get("architectures")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise CheckpointError(f"{path} has architectures={names!r}; it must be a list of names of classes")
    try:
        _check_sizes(path, stated)
        found: dict[str, Any] = _without(stated, IGNORED_KEYS)
        return found
    except RecursionError:
        raise CheckpointError(f"{path} is nested too deeply to be a config") from None


def _check_sizes(path: Path, stated: dict[str, Any]) -> None:
    for key, value in stated.items():
        if isinstance(value, dict):
            _check_sizes(path, value)
        if not isinstance(value, int | float) or any(part in key for part in NO_SIZES):
            continue
        counts = key in ("n_layer", "num_experts", "num_local_experts") or key.endswith("layers")
        most = MOST_LAYERS if counts else LARGEST_SIZE
        if not abs(value) <= most:
            raise CheckpointError(f"{path} has {key}={value}, and {most:,} is the most that this program takes")


def _without(nested: Any, keys: frozenset[str]) -> Any:
    if isinstance(nested, dict):
        return {key: _without(value, keys) for key, value in nested.items() if key not in keys}
    return [_without(value, keys) for value in nested] if isinstance(nested, list) else nested


def check_head(path: Path, config: PretrainedConfig, loaded: type) -> None:
    """Raise `UnsupportedModelError` where the config names a class of transformers with another head than `loaded`."""
    headless = MODEL_MAPPING.get(type(config), ())
    known = {cls.__name__ for cls in (loaded, *(headless if isinstance(headless, tuple) else (headless,)))}
    names = config.architectures or []
    if names and not known & set(names) and any(hasattr(transformers, name) for name in names):
        raise UnsupportedModelError(
            f"{path} names the class {', '.join(names)}, whose head is not supported for models of type "
            f"{config.model_type}; {' and '.join(sorted(known))} are"
        )


def settle_encoder(folder: Path, config: PretrainedConfig, files: list[Path]) -> None:
    """Make the config name the encoder alone where a model of sentence-transformers has no more than that: what it
    names is often the class that was pretrained.
    """
    found = MODEL_MAPPING.get(type(config), ())
    bare = found[0] if isinstance(found, tuple) and found else found
    if not bare or not (folder / SENTENCE_MODULES).is_file():
        return
    names = [name for path in files for name in _tensor_names(path)]
    if names and not any(name.startswith(f"{bare.base_model_prefix}.") for name in names):
        config.architectures = [bare.__name__]


def settle_decoder_start(folder: Path, config: PretrainedConfig) -> None:
    """Take the token that a decoder starts with from the generation config, where transformers 5 keeps it."""
    path = folder / "generation_config.json"
    generation = read_json(path) if path.is_file() else {}
    if not config.is_encoder_decoder or getattr(config, "decoder_start_token_id", None) is not None:
        return
    start = generation.get("decoder_start_token_id")
    start = start[0] if isinstance(start, list) and start else start
    if not isinstance(start, int):
        raise CheckpointError(
            f"neither {folder / 'config.json'} nor {path.name} has a decoder_start_token_id, the token that the "
            "decoder starts with; write it into one of them (of T5 and Marian it is the pad token)"
        )
    config.decoder_start_token_id = start


def settle_ties(folder: Path, config: PretrainedConfig, model_class: Any, files: list[Path]) -> None:
    """Make the config say of a tied head what the weights say, which is what transformers loads.

    Raises `CheckpointError` where it cannot: the head is missing, or more than one pair of weights is tied.
    """
    pairs = getattr(model_class, "_tied_weights_keys", None)
    if not isinstance(pairs, dict) or not pairs:
        return
    prefix = f"{model_class.base_model_prefix}."
    stored = {name.removeprefix(prefix): (name, path) for path in files for name in _tensor_names(path)}
    for target, source in pairs.items():
        there, origin = (stored.get(name.removeprefix(prefix)) for name in (target, source))
        if not config.tie_word_embeddings:
            if there is None and origin is not None and not _has_twin(origin, list(stored.values())):
                raise CheckpointError(
                    f"{folder / 'config.json'} says that {target} is not tied to {source} (tie_word_embeddings), but "
                    f"the weights hold no {target}: write true there if the model was trained so, or save it again "
                    "with its head"
                )
        elif there is not None and origin is not None and not _equal(there, origin):
            if len(pairs) > 1:
                raise CheckpointError(
                    f"{folder / 'config.json'} says that {target} is tied to {source} (tie_word_embeddings), but the "
                    "weights hold both, with different values; save the model again with the one that is meant"
                )
            config.tie_word_embeddings = False


def _has_twin(place: tuple[str, Path], stored: list[tuple[str, Path]]) -> bool:
    """Tell whether another tensor outside of layers has the same shape: a head that goes by another name."""
    shape = _shape(*place)
    outside = [other for other in stored if other != place and not any(part.isdigit() for part in other[0].split("."))]
    return any(_shape(*other) == shape for other in outside)


def _shape(name: str, path: Path) -> list[int]:
    with safe_open(path, framework="pt") as file:
        found: list[int] = file.get_slice(name).get_shape()
        return found


def _tensor_names(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (OSError, SafetensorError):
        return []  # what is damaged is named when the weights are read


def _equal(one: tuple[str, Path], other: tuple[str, Path]) -> bool:
    a, b = (_tensor(*place) for place in (one, other))
    return a.shape == b.shape and bool((a == b).all())


def _tensor(name: str, path: Path) -> Tensor:
    with safe_open(path, framework="pt") as file:
        found: Tensor = file.get_tensor(name)
        return found
