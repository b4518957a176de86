"""Tiny decoders of the families that are exported, narrowed by layer or not, and a tokenizer of 300 tokens."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from neuromeld.archs import ARCHITECTURES
from neuromeld.archs.resolve import resolve
from neuromeld.archs.spec import Space
from neuromeld.checkpoint import save_checkpoint
from neuromeld.model.native.block import make_native, native_block
from neuromeld.model.native.modeling import attach_member_hooks
from neuromeld.model.surgery import add_gain, add_low_rank, mix_outputs, read_matrix, write_matrix

VOCAB = 304
FAMILIES = (
    "llama",
    "mistral",
    "granite",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3_text",
    "olmo2",
    "phi3",
    "smollm3",
)

SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 128,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
EXTRA: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": None},
    "granite": {"embedding_multiplier": 3.0, "residual_multiplier": 0.7, "attention_multiplier": 0.2},
    "olmo2": {"tie_word_embeddings": False, "pad_token_id": None, "eos_token_id": 1},
    "phi3": {"pad_token_id": None, "eos_token_id": 1, "sliding_window": None},
    "smollm3": {"pad_token_id": None, "bos_token_id": 0, "eos_token_id": 1, "num_hidden_layers": 5},
    "gemma2": {"query_pre_attn_scalar": 32, "sliding_window": 8},
    "gemma3_text": {"query_pre_attn_scalar": 32, "sliding_window": 8},
}


def build(family: str, **changes: Any) -> PreTrainedModel:
    """A stock model whose every parameter is random."""
    model_class: Any = getattr(transformers, ARCHITECTURES[family].model_class)
    config = model_class.config_class(**SIZES | EXTRA.get(family, {}) | changes)
    model = model_class(config).eval()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = 1 + noise * 0.2 if "norm" in name else noise * (0.3 if parameter.dim() == 1 else 0.15)
    return model


def ragged(family: str, widths: tuple[int, ...] = (96, 40, 8, 72), **changes: Any) -> PreTrainedModel:
    """A native model whose FFNs have these widths."""
    model = build(family, **changes)
    arch = resolve(model, ARCHITECTURES[family])
    for layer, width in enumerate(widths):
        for weight in (*arch.producers(layer, Space.FFN), arch.consumer(layer, Space.FFN)):
            matrix = read_matrix(model, weight)
            write_matrix(model, weight, matrix[:, :width] if weight.out == Space.FFN else matrix[:width])
    make_native(model, native_block(model, arch))
    return model


def ragged_heads(family: str, kept: tuple[int, ...] = (2, 1, 2, 1)) -> PreTrainedModel:
    """A native model whose layers have these numbers of key-value heads, each with two query heads."""
    model = build(family)
    arch = resolve(model, ARCHITECTURES[family])
    for layer, heads in enumerate(kept):
        for space in (Space.HEADS, Space.KV):
            left = torch.arange(arch.widths[space] // 2 * heads)
            for weight in arch.producers(layer, space):
                mix_outputs(model, weight, left)
        consumer = arch.consumer(layer, Space.HEADS)
        write_matrix(model, consumer, read_matrix(model, consumer)[: arch.widths[Space.HEADS] // 2 * heads])
    make_native(model, native_block(model, arch))
    return model


def shared(**changes: Any) -> PreTrainedModel:
    """A native Llama whose second and third FFN are one, with a gain and a matrix of low rank in the third."""
    model = build("llama", **changes)
    arch = resolve(model, ARCHITECTURES["llama"])
    first, second = (model.model.layers[layer].mlp for layer in (1, 2))
    for name in ("gate_proj", "up_proj", "down_proj"):
        getattr(second, name).weight = getattr(first, name).weight
    path = arch.consumer(2, Space.FFN).path
    add_gain(model, path, torch.linspace(0.5, 1.5, 128))
    add_low_rank(model, path, torch.randn(96, 3) * 0.1, torch.randn(3, 128) * 0.1)
    block = native_block(model, arch)
    attach_member_hooks(model, block)
    make_native(model, block)
    return model


def with_own_code(key: str) -> PreTrainedModel:
    """A native Llama whose config says that it has what only neuromeld's code runs, as `shortcuts`."""
    model = ragged("llama")
    model.config.neuromeld |= {key: True}
    return model


def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, a few merges and two special tokens, split as GPT-2 does."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n"), ("a", "n")]
    tokens = ["<s>", "</s>", *letters, *("".join(pair) for pair in merges)]
    backend = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def save(model: PreTrainedModel, folder: Path) -> Path:
    """A checkpoint folder."""
    folder.mkdir()
    save_checkpoint(model, tokenizer(), folder, recipe_yaml=None)
    return folder
