"""Weight files that are cut off, changed in single bits, of other types and shapes, incomplete, or wrongly indexed."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fuzz.case import CHEAP, TEXT, Case, Scene, compression
from fuzz.damage import damage_file, damage_json

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
DTYPES = (torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn, torch.float64, torch.float16, torch.uint8)


def case(scene: Scene) -> Case:
    """A model whose weights are damaged in one way, to be compressed or compared."""
    draw = scene.draw
    folder = scene.take("model")
    scene.take("words.jsonl")
    draw.choice((_damage_bytes, _damage_header, _damage_tensors, _damage_tensors, _damage_index, _damage_index, _add))(
        draw, folder
    )
    options = draw.choice(([], [], ["--allow-pickle"], ["--max-memory", "1GB"]))
    if draw.random() < 0.3:
        return Case(["similarity", "model", *TEXT, *(options if "--max-memory" not in options else [])])
    return compression("model", *CHEAP, *TEXT, *options)


def _damage_bytes(draw: Random, folder: Path) -> None:
    damage_file(draw, folder / WEIGHTS)


def _damage_header(draw: Random, folder: Path) -> None:
    """Flip bits in the JSON that a file begins with, or give it another length."""
    data = bytearray((folder / WEIGHTS).read_bytes())
    length = int.from_bytes(data[:8], "little")
    for _ in range(draw.choice((1, 3))):
        data[draw.randrange(8 + length if draw.random() < 0.7 else 8)] ^= 1 << draw.randrange(8)
    (folder / WEIGHTS).write_bytes(data)


def _damage_tensors(draw: Random, folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    name = draw.choice(sorted(weights))
    ways: list[Callable[[Tensor], Tensor]] = [
        lambda w: w.to(draw.choice(DTYPES)),
        lambda w: w.T.contiguous().flatten(),
        lambda w: w[:-1].clone(),
        lambda w: w[:0].clone(),
        lambda w: w.unsqueeze(0),
        lambda w: torch.full_like(w, float("nan")),
        lambda w: torch.full_like(w, float("inf")),
        lambda w: w * 1e30,
        lambda w: w * 0,
    ]
    if draw.random() < 0.3:
        del weights[name]
    else:
        weights[name] = draw.choice(ways)(weights[name])
    if draw.random() < 0.3:
        weights[
            draw.choice(("extra", "model.layers.0.mlp.gate_proj.bias", "model.layers.9.mlp.up_proj.weight", "é"))
        ] = torch.ones(3)
    save_file(weights, folder / WEIGHTS, metadata=draw.choice(({"format": "pt"}, {"format": "tf"}, {"x": "[/]"}, None)))


def _damage_index(draw: Random, folder: Path) -> None:
    """Shard the weights in two, and damage the index or lose a shard."""
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(weights)
    where = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(where.values()):
        save_file(
            {name: weights[name] for name in names if where[name] == file}, folder / file, metadata={"format": "pt"}
        )
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    way = draw.randrange(4)
    if way == 0:
        damage_file(draw, folder / where[names[0]])
    elif way == 1:
        (folder / where[names[0]]).unlink()
    elif way == 2:
        index = {"weight_map": where | {draw.choice(names): draw.choice(("../x.safetensors", "", "config.json", "/x"))}}
        (folder / INDEX).write_text(json.dumps(index))
    else:
        damage_json(draw, folder / INDEX)


def _add(draw: Random, folder: Path) -> None:
    """Other files that a model folder may hold, whose weights are there twice or not at all."""
    way = draw.randrange(4)
    if way == 0:
        (folder / WEIGHTS).rename(folder / draw.choice(("pytorch_model.bin", "weights.safetensors", "tf_model.h5")))
    elif way == 1:
        torch.save({"x": torch.ones(2)}, folder / "pytorch_model.bin")
        (folder / WEIGHTS).unlink()
    elif way == 2:
        adapter = {"peft_type": "LORA", "r": 2, "base_model_name_or_path": "none/none", "target_modules": ["q_proj"]}
        (folder / "adapter_config.json").write_text(json.dumps(adapter))
        save_file({"lora_A.weight": torch.ones(2, 24)}, folder / "adapter_model.safetensors")
        if draw.random() < 0.5:
            (folder / WEIGHTS).unlink()
            (folder / "config.json").unlink()
    else:
        (folder / INDEX).write_text(json.dumps({"weight_map": {"x": "y.safetensors"}}))
