"""Write a decoder as one GGUF file, and read it again."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from neuromeld.checkpoint.export.gguf_families import (
    FAMILIES,
    ROTATES_NEIGHBOURS,
    Metadata,
    gguf_arch,
    gguf_metadata,
    rope_of,
)
from neuromeld.checkpoint.export.gguf_tokenizer import tokenizer_metadata
from neuromeld.checkpoint.export.shape import Shape, shape_of
from neuromeld.checkpoint.export.weights import PlainWeights
from neuromeld.errors import CheckpointError

TYPES = {
    torch.float32: gguf.GGMLQuantizationType.F32,
    torch.float16: gguf.GGMLQuantizationType.F16,
    torch.bfloat16: gguf.GGMLQuantizationType.BF16,
}
Q8 = gguf.GGMLQuantizationType.Q8_0
Q8_BLOCK = 32
"""Weights of a row that share a scale in Q8_0."""

Q8_ERROR = 0.5 + 127 / 2**11
"""How far a weight may be from its block's nearest step, in steps: half of one, and the rounding of the scale to
float16."""

FILE_TYPES = {
    gguf.GGMLQuantizationType.F32: gguf.LlamaFileType.ALL_F32,
    gguf.GGMLQuantizationType.F16: gguf.LlamaFileType.MOSTLY_F16,
    gguf.GGMLQuantizationType.BF16: gguf.LlamaFileType.MOSTLY_BF16,
    Q8: gguf.LlamaFileType.MOSTLY_Q8_0,
}

ROPE_FACTORS = "rope_freqs.weight"


@dataclass(frozen=True)
class GgufModel:
    """Hold the metadata and the tensors of a GGUF file.

    weights   full and filled up, by the names of transformers
    q8_0      matrices are written in blocks of 8-bit integers
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    weights: PlainWeights
    q8_0: bool = False

    @property
    def shape(self) -> Shape:
        """The shape of the checkpoint."""
        return shape_of(self.model.config)

    @property
    def arch(self) -> str:
        """The architecture of llama.cpp."""
        return gguf_arch(self.shape)

    def kind(self, tensor: Tensor) -> gguf.GGMLQuantizationType:
        """Return the type that a tensor is written in: vectors in float32, which llama.cpp wants."""
        if tensor.dim() < 2:
            return gguf.GGMLQuantizationType.F32
        if self.q8_0 and tensor.shape[-1] % Q8_BLOCK == 0:
            return Q8
        return TYPES[self.model.dtype]

    def metadata(self) -> Metadata:
        """Return everything but the tensors."""
        config = self.model.config
        widths = tuple(self.weights.width(neurons) for neurons in self.shape.ffn)
        named = {f"{self.arch}.{key}": value for key, value in gguf_metadata(self.shape, config, widths).items()}
        main = Q8 if self.q8_0 else TYPES[self.model.dtype]
        general = {"general.file_type": int(FILE_TYPES[main]), "general.quantization_version": 2}
        return general | named | tokenizer_metadata(self.tokenizer, config.vocab_size)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors by the names of llama.cpp, as it computes with them."""
        numbers = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
        names = gguf.get_tensor_name_map(numbers[self.arch], len(self.shape.ffn))
        if (factors := rope_factors(self.model.config)) is not None:
            yield ROPE_FACTORS, factors
        for name, tensor in self.weights:
            found = names.get_name(name, try_suffixes=(".weight", ".bias"))
            if found is None:
                raise CheckpointError(f"llama.cpp's architecture {self.arch} has no place for {name}")
            yield found, self._arranged(name, tensor)

    def _arranged(self, name: str, tensor: Tensor) -> Tensor:
        shape, offset = self.shape, FAMILIES[self.shape.model_type].norm_offset
        if name.endswith("norm.weight") and offset:
            return tensor + offset
        if self.arch in ROTATES_NEIGHBOURS and "self_attn" in name:
            layer = int(name.split(".")[2])
            if ".q_proj." in name:
                return interleaved(tensor, shape.num_heads[layer])
            if ".k_proj." in name:
                return interleaved(tensor, shape.num_kv_heads[layer])
        return tensor


def interleaved(tensor: Tensor, num_heads: int) -> Tensor:
    """Return rows of q or k in an order in which the channels that turn together are neighbours."""
    rows = tensor.shape[0]
    halves = tensor.reshape(num_heads, 2, rows // num_heads // 2, *tensor.shape[1:])
    return halves.swapaxes(1, 2).reshape(tensor.shape)


def rope_factors(config: Any) -> Tensor | None:
    """Return what the frequencies of Llama 3.1 are divided by, `(head_dim / 2,)`; None for other positions.

    Source: `_compute_llama3_parameters` of transformers.
    """
    rope = rope_of(config)
    if rope.get("rope_type") != "llama3":
        return None
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    lengths = 2 * torch.pi * rope["rope_theta"] ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    turns = rope["original_max_position_embeddings"] / lengths
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    found: Tensor = (1 / ((1 - smooth) / rope["factor"] + smooth)).float()
    return found


def write_gguf(content: GgufModel, path: Path) -> None:
    """Write the file, one tensor at a time."""
    writer = gguf.GGUFWriter(path, content.arch)
    for key, value in content.metadata().items():
        _put(writer, key, value)
    for name, tensor in content.tensors():
        kind = content.kind(tensor)
        array = _encoded(tensor, kind)
        writer.add_tensor(name, array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _put(writer: Any, key: str, value: Any) -> None:
    """Add one entry, of the type that llama.cpp reads it as."""
    if isinstance(value, list):
        writer.add_array(key, value)
        return
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    kinds[type(value)](key, value)


def _encoded(tensor: Tensor, kind: gguf.GGMLQuantizationType) -> np.ndarray[Any, Any]:
    if kind == gguf.GGMLQuantizationType.F16:
        return tensor.half().contiguous().numpy()
    return np.asarray(gguf.quants.quantize(tensor.float().contiguous().numpy(), kind))


def compare_gguf(content: GgufModel, path: Path) -> None:
    """Read a file again: every tensor and every entry is what the model says.

    Raises `CheckpointError` for the first that is not.
    """
    reader = gguf.GGUFReader(path)
    for key, value in content.metadata().items():
        field = reader.get_field(key)
        if field is None or not _same(field.contents(), value):
            raise CheckpointError(f"{path} does not hold the {key} that was written")
    stored = {tensor.name: tensor for tensor in reader.tensors}
    for name, expected in content.tensors():
        tensor = stored.pop(name, None)
        if tensor is None or not _close(tensor, expected):
            raise CheckpointError(f"{name} in {path} is not what the model has")
    if stored:
        raise CheckpointError(f"{path} holds tensors that the model does not have: {', '.join(sorted(stored))}")


def _same(found: Any, value: Any) -> bool:
    if isinstance(value, float):
        return bool(np.float32(value) == np.float32(found))
    if isinstance(value, list) and value and isinstance(value[0], float):
        return bool(np.array_equal(np.array(value, np.float32), np.array(found, np.float32)))
    return bool(found == value)


def _close(stored: Any, expected: Tensor) -> bool:
    """Whether a stored tensor is the expected one: exactly, or within half a step of its quantisation."""
    found = torch.from_numpy(np.array(gguf.quants.dequantize(stored.data, stored.tensor_type)))
    expected = expected.float()
    if found.shape != expected.shape:
        return False
    if stored.tensor_type != Q8:
        return bool(torch.equal(found, expected))
    blocks, errors = (values.reshape(-1, Q8_BLOCK) for values in (expected, found - expected))
    step = blocks.abs().amax(1, keepdim=True) / 127
    return bool((errors.abs() <= Q8_ERROR * step + 1e-12).all())
