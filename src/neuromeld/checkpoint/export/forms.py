"""The forms that a checkpoint can be exported to."""

from pathlib import Path

from neuromeld.checkpoint.export.block_configs import (
    MULT_STEP,
    BlockConfigs,
    block_config_reasons,
    compare_block_configs,
    write_block_configs,
)
from neuromeld.checkpoint.export.form import Content, Form
from neuromeld.checkpoint.export.gguf_families import gguf_reasons
from neuromeld.checkpoint.export.gguf_file import Q8_BLOCK, GgufModel, compare_gguf, write_gguf
from neuromeld.checkpoint.export.quantised import Q8_0, TYPES, quantise
from neuromeld.checkpoint.export.running import by_llama_cpp, by_vllm
from neuromeld.checkpoint.export.weights import PlainWeights
from neuromeld.registry import Registry


def _gguf(content: Content, quantize: str | None) -> GgufModel:
    weights = PlainWeights(content.model, 1 if quantize is None else Q8_BLOCK)
    return GgufModel(content.model, content.tokenizer, weights, q8_0=quantize == Q8_0)


def _gguf_path(content: Content, folder: Path) -> Path:
    kind = content.quantize or str(content.model.dtype).removeprefix("torch.")
    return folder / f"model-{kind}.gguf"


def _write_gguf(content: Content, folder: Path) -> None:
    """One GGUF file for llama.cpp and what is built on it.

    FFNs of other widths than multiples of 32 are filled up to one where it is quantised.
    """
    path = _gguf_path(content, folder)
    if content.quantize in (None, Q8_0):
        write_gguf(_gguf(content, content.quantize), path)
        return
    full = folder / "full.gguf"
    write_gguf(_gguf(content, content.quantize), full)
    compare_gguf(_gguf(content, content.quantize), full)
    quantise(full, path, str(content.quantize))
    full.unlink()


def _compare_gguf(content: Content, folder: Path) -> None:
    if content.quantize in (None, Q8_0):  # of another type, what it was made of was compared as it was written
        compare_gguf(_gguf(content, content.quantize), _gguf_path(content, folder))


def _block_configs(content: Content, *, by_mult: bool) -> BlockConfigs:
    return BlockConfigs(content.model, PlainWeights(content.model, MULT_STEP if by_mult else 1), by_mult)


def _write_vllm(content: Content, folder: Path) -> None:
    """A folder of the type nemotron-nas, which vLLM loads with one width for each layer."""
    write_block_configs(_block_configs(content, by_mult=False), folder)


def _compare_vllm(content: Content, folder: Path) -> None:
    compare_block_configs(_block_configs(content, by_mult=False), folder)


def _write_mlx(content: Content, folder: Path) -> None:
    """Write a vLLM folder with widths filled up to multiples of 256, for MLX-LM, SGLang and TensorRT-LLM."""
    write_block_configs(_block_configs(content, by_mult=True), folder)


def _compare_mlx(content: Content, folder: Path) -> None:
    compare_block_configs(_block_configs(content, by_mult=True), folder)


FORMS: Registry[Form] = Registry(
    "form",
    {
        form.name: form
        for form in (
            Form("gguf", "llama_cpp", gguf_reasons, _write_gguf, _compare_gguf, by_llama_cpp, TYPES),
            Form("vllm", "vllm", block_config_reasons, _write_vllm, _compare_vllm, by_vllm, stock=False),
            Form("mlx", None, block_config_reasons, _write_mlx, _compare_mlx, stock=False),
        )
    },
)
