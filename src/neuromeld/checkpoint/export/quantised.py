"""GGUF files in fewer bits."""

from pathlib import Path

import gguf
from gguf import GGMLQuantizationType as Block

from neuromeld.checkpoint.export.running import is_installed
from neuromeld.errors import CheckpointError, UserInputError

Q8_0 = "q8_0"
"""Blocks of 8-bit integers, which the package gguf writes itself."""

K_BLOCK = 256
"""Weights of a row that share scales in the types whose names have a k."""

TYPES = (Q8_0, "q4_k_m", "q5_k_m", "q6_k")
"""Those that can be asked for; the others are written by llama.cpp."""

_BLOCKS = {Q8_0: Block.Q8_0, "q4_k_m": Block.Q4_K, "q5_k_m": Block.Q5_K, "q6_k": Block.Q6_K}
_LARGER = {Block.Q4_K: Block.Q5_0, Block.Q5_K: Block.Q5_1, Block.Q6_K: Block.Q8_0}
"""What a matrix is written in whose rows are not whole blocks; where those of 32 are not whole either, in float16.

Source: `tensor_type_fallback` in llama.cpp's src/llama-quant.cpp.
"""


def bytes_per_weight(kind: str, row: int, *, raised: float = 0.0) -> float:
    """Return the bytes that a weight takes in one of `TYPES`, scales included.

    row      weights in a row of its matrix
    raised   share of the matrices of its kind that a mixed type, as q4_k_m, writes in q6_k
    """
    own = _bytes(_BLOCKS[kind], row)
    return own + raised * (_bytes(Block.Q6_K, row) - own) if kind.endswith("_m") else own


def _bytes(block: Block, row: int) -> float:
    if row % gguf.GGML_QUANT_SIZES[block][0]:
        return _bytes(_LARGER.get(block, Block.F16), row)
    weights, size = gguf.GGML_QUANT_SIZES[block]
    return size / weights


def check_type(kind: str | None) -> None:
    """Raise `UserInputError` for a type that cannot be written here: asked before the work."""
    if kind not in (None, Q8_0) and not is_installed("llama_cpp"):
        raise UserInputError(
            f"{kind} is written by llama.cpp, which is not installed: pip install llama-cpp-python, or use {Q8_0}"
        )


def quantise(source: Path, out: Path, kind: str) -> None:
    """Write a GGUF file in another type, by llama.cpp.

    Raises `CheckpointError` where llama.cpp fails.
    """
    import llama_cpp

    silent = llama_cpp.llama_log_callback(lambda level, text, data: None)  # noqa: ARG005
    llama_cpp.llama_log_set(silent, None)
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind.upper()}")
    code = llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), params)
    llama_cpp.llama_log_set(llama_cpp.llama_log_callback(0), None)
    if code != 0:
        raise CheckpointError(f"llama.cpp could not write {source.name} as {kind} (code {code})")
