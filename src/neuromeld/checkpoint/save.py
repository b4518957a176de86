"""Write a checkpoint folder, and prove that what was written is the model."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_utils import remove_tied_weights_from_state_dict
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from neuromeld.checkpoint.folder import check_space
from neuromeld.checkpoint.load import load_model
from neuromeld.checkpoint.portable import with_older_config, with_older_tokenizer, without_places
from neuromeld.errors import CheckpointError
from neuromeld.model.capture import Batch
from neuromeld.model.native import modeling
from neuromeld.model.native.classes import auto_class
from neuromeld.model.outputs import outputs
from neuromeld.runtime.paging import drop_pages
from neuromeld.runtime.workspace import write_text

LAYER = re.compile(r".*?\.\d+\.")
"""The path of a layer in the name of a tensor."""

REMOTE_MODULE = "modeling_neuromeld"
"""The name under which a native checkpoint carries `modeling.py`."""

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 5e-2}
"""How far logits may move between memory and disk, over the largest: a few roundings of the dtype."""


SHARD_BYTES = 5_000_000_000
"""The size of a file of weights, at most."""


def save_checkpoint(
    model: PreTrainedModel,
    processor: Any,
    folder: Path,
    *,
    recipe_yaml: str | None,
    max_shard_size: int | str = SHARD_BYTES,
    memory_mapped: bool = False,
) -> None:
    """Write weights, configs, processor (such as a tokenizer) and recipe, if any, into a `new_folder`.

    memory_mapped   hold the pages of one shard of the weights at a time

    A native model takes its code along, so that it loads with `trust_remote_code=True` without neuromeld.
    """
    check_space(folder, sum(parameter.nbytes for parameter in model.parameters()))
    if memory_mapped:
        model.save_pretrained(folder, state_dict={})  # all but the weights
        _save_weights(model, folder, max_shard_size)
    else:
        model.save_pretrained(folder, max_shard_size=max_shard_size)
    processor.save_pretrained(folder)
    if recipe_yaml is not None:
        (folder / "recipe.yaml").write_text(recipe_yaml, encoding="utf-8")
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config = with_older_config(without_places(config))
    config.pop("auto_map", None)  # names code of the original checkpoint, which is not here
    if config["model_type"].startswith(modeling.native_model_type("")):
        headless = modeling.headless_model(type(model))
        shutil.copyfile(modeling.__file__, folder / f"{REMOTE_MODULE}.py")
        config["auto_map"] = {
            "AutoConfig": f"{REMOTE_MODULE}.{type(model.config).__name__}",
            **({"AutoModel": f"{REMOTE_MODULE}.{headless.__name__}"} if headless is not None else {}),
            auto_class(type(model)).__name__: f"{REMOTE_MODULE}.{type(model).__name__}",
        }
    _write_json(path, config)
    for path in folder.glob("*config.json"):
        if path.name != "config.json":
            content = without_places(json.loads(path.read_text(encoding="utf-8")))
            content.pop("auto_map", None)
            _write_json(path, with_older_tokenizer(content) if path.name == "tokenizer_config.json" else content)


def _save_weights(model: PreTrainedModel, folder: Path, max_shard_size: int | str) -> None:
    """Write the weights as `save_pretrained` lays them out, a shard at a time."""
    ignored = model._keys_to_ignore_on_save or ()
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name not in ignored}
    tensors = remove_tied_weights_from_state_dict(tensors, model)
    shapes = {name: tensor.to("meta") for name, tensor in tensors.items()}
    split = split_torch_state_dict_into_shards(revert_weight_conversion(model, shapes), max_shard_size=max_shard_size)
    parts = _parts(tensors)
    part_of = {
        name: number
        for number, part in enumerate(parts)
        for name in revert_weight_conversion(model, {one: shapes[one] for one in part})
    }
    for file, names in split.filename_to_tensors.items():
        shard: dict[str, Tensor] = {}
        for number in dict.fromkeys(part_of[name] for name in names):
            reverted = revert_weight_conversion(model, parts[number])
            shard |= {name: reverted[name].contiguous() for name in names if part_of[name] == number}
        save_file(shard, folder / file, metadata={"format": "pt"})
        drop_pages([*shard.values(), *tensors.values()])
    if split.is_sharded:
        metadata = {"total_parameters": model.num_parameters(), **split.metadata}
        _write_json(folder / SAFE_WEIGHTS_INDEX_NAME, {"metadata": metadata, "weight_map": split.tensor_to_filename})


def _parts(tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Return what may be converted together: the tensors of each layer, and those outside of layers."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number = LAYER.match(name)
        parts.setdefault(number[0] if number else "", {})[name] = tensor
    return list(parts.values())


def save_record(folder: Path, record: dict[str, Any], *, card: str | None) -> None:
    """Write `record.json` and the model card, if any: last, as the record holds what was measured on the files."""
    _write_json(folder / "record.json", record)
    if card is not None:
        _write_text(folder / "README.md", card)


@torch.no_grad()
def verify_checkpoint(
    folder: Path, expected: Tensor, batch: Batch, *, dtype: torch.dtype, scratch: Path | None = None
) -> float:
    """Load `folder` as a user would and compare its `outputs` on a batch with those of the model that was saved.

    Returns the largest difference over the largest value; `CheckpointError` if that exceeds the dtype's tolerance.
    """
    model = load_model(folder, dtype=None, device=str(expected.device), scratch=scratch)
    if model.dtype != dtype:
        raise CheckpointError(f"{folder} loads as {model.dtype}, but the model that was saved is {dtype}")
    expected = expected.double()
    difference = float((outputs(model, batch).double() - expected).abs().max() / expected.abs().max())
    if not difference <= TOLERANCES[dtype]:
        raise CheckpointError(
            f"the checkpoint written to {folder} is not the model that was saved: its logits differ by "
            f"{difference:.2e} of the largest, and {TOLERANCES[dtype]:.0e} is allowed in {dtype}"
        )
    return difference


def _write_json(path: Path, content: dict[str, Any]) -> None:
    _write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def _write_text(path: Path, text: str) -> None:
    if path.exists():
        write_text(path, text)
    else:  # in a new folder, which appears whole itself
        path.write_text(text, encoding="utf-8")
