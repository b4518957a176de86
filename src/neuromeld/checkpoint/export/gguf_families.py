"""Which architecture of llama.cpp runs a family, and what its metadata say: the arithmetic is read off llama.cpp.

`tests/unit/checkpoint/export/test_llama_cpp.py` compares each of them with transformers, where llama.cpp is installed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from neuromeld.checkpoint.export.shape import Shape

Metadata = dict[str, Any]
"""Values by key; the keys of an architecture without its name before them."""

BY_LAYER = "deci"
"""The architecture that reads a width and a number of heads for each layer, and computes what `llama` does."""

ROTATES_NEIGHBOURS = frozenset({"llama", BY_LAYER, "granite", "smollm3"})
"""Architectures that rotate neighbouring channels, where transformers rotates the halves of a head."""


def _nothing(config: Any) -> Metadata:  # noqa: ARG001
    return {}


def _no_reasons(config: Any) -> list[str]:  # noqa: ARG001
    return []


def _granite(config: Any) -> Metadata:
    return {
        "attention.scale": float(config.attention_multiplier),
        "embedding_scale": float(config.embedding_multiplier),
        "residual_scale": float(config.residual_multiplier),
        "logit_scale": float(config.logits_scaling),
    }


def _windows(config: Any) -> Metadata:
    """Return which layers attend to a window, and how their positions turn."""
    local = config.rope_parameters.get("sliding_attention", {}).get("rope_theta")
    return {
        "attention.sliding_window": int(config.sliding_window),
        "attention.sliding_window_pattern": [kind == "sliding_attention" for kind in config.layer_types],
    } | ({} if local is None else {"rope.freq_base_swa": float(local)})


def _gemma2(config: Any) -> Metadata:
    return _windows(config) | {
        "attn_logit_softcapping": float(config.attn_logit_softcapping),
        "final_logit_softcapping": float(config.final_logit_softcapping),
    }


def _gemma_scale(config: Any) -> list[str]:
    reasons = []
    if config.query_pre_attn_scalar != config.head_dim:
        reasons.append(f"llama.cpp divides by the head's width, not by {config.query_pre_attn_scalar}")
    if getattr(config, "use_bidirectional_attention", None):
        reasons.append("its attention looks both ways")
    return reasons


def _gemma3(config: Any) -> list[str]:
    caps = (config.attn_logit_softcapping, config.final_logit_softcapping)
    return _gemma_scale(config) + (["its logits are capped"] if any(caps) else [])


def _as_wide_as_the_stream(config: Any) -> list[str]:
    """Return why llama.cpp, which takes all heads together to be as wide as the stream, cannot load the model."""
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    if width == config.hidden_size:
        return []
    return [f"llama.cpp wants its heads to be as wide as the stream together, and they have {width} channels"]


def _olmo2(config: Any) -> list[str]:
    tied = ["llama.cpp wants a head of its own, and this one is tied"] if config.tie_word_embeddings else []
    return _as_wide_as_the_stream(config) + tied


def _every_fourth(config: Any) -> list[str]:
    """Return why llama.cpp's SmolLM3, whose every fourth layer knows no positions, is not this one."""
    layers = range(1, config.num_hidden_layers + 1)
    if [bool(knows) for knows in config.no_rope_layers] == [layer % 4 != 0 for layer in layers]:
        return []
    return ["llama.cpp takes every fourth layer for one that knows no positions, and here others do not"]


@dataclass(frozen=True)
class GgufFamily:
    """How llama.cpp runs a family of transformers.

    arch         its architecture there
    by_layer     whether `deci` computes the same, so that sizes may differ by layer
    activation   the one that it computes
    norm_offset  what transformers adds to the weight of a norm, which a GGUF file holds added
    metadata     what it needs to know beyond what all do, of the config
    reasons      why a config cannot be said
    """

    arch: str
    by_layer: bool = False
    activation: str = "silu"
    norm_offset: float = 0.0
    metadata: Callable[[Any], Metadata] = _nothing
    reasons: Callable[[Any], list[str]] = _no_reasons


GELU = "gelu_pytorch_tanh"

FAMILIES: Mapping[str, GgufFamily] = {
    "llama": GgufFamily("llama", by_layer=True),
    "mistral": GgufFamily("llama", by_layer=True),
    "granite": GgufFamily("granite", metadata=_granite),
    "qwen2": GgufFamily("qwen2", by_layer=True),
    "qwen3": GgufFamily("qwen3"),
    "olmo2": GgufFamily("olmo2", reasons=_olmo2),
    "phi3": GgufFamily("phi3", reasons=_as_wide_as_the_stream),
    "smollm3": GgufFamily("smollm3", reasons=_every_fourth),
    "gemma": GgufFamily("gemma", False, GELU, 1.0),
    "gemma2": GgufFamily("gemma2", False, GELU, 1.0, _gemma2, _gemma_scale),
    "gemma3_text": GgufFamily("gemma3", False, GELU, 1.0, _windows, _gemma3),
}

ROPE_TYPES = ("default", "linear", "llama3")


def gguf_arch(shape: Shape) -> str:
    """Return the architecture that a GGUF file of this shape is of."""
    return BY_LAYER if shape.ragged or shape.ragged_heads or 0 in shape.ffn else FAMILIES[shape.model_type].arch


def gguf_reasons(shape: Shape, config: Any) -> list[str]:
    """Return why no GGUF file can hold a model of this shape; none where one can."""
    family = FAMILIES.get(shape.model_type)
    if family is None:
        return [
            f"{shape.model_type} models are not written as GGUF here ({', '.join(FAMILIES)} are); a stock checkpoint "
            "may go through llama.cpp's own convert_hf_to_gguf.py"
        ]
    reasons = [f"it has {what}, which only neuromeld's code runs" for what in shape.own_code]
    if gguf_arch(shape) == BY_LAYER and not family.by_layer:
        reasons.append(
            f"llama.cpp reads sizes by layer in its architecture {BY_LAYER} alone, which does not compute what "
            f"{shape.model_type} does; compress with --stock"
        )
    activation = getattr(config, "hidden_activation", None) or config.hidden_act
    if activation not in {family.activation, {"silu": "swish"}.get(family.activation)}:
        reasons.append(f"its activation is {activation}, and llama.cpp's {family.arch} computes {family.activation}")
    kind = rope_of(config).get("rope_type", "default")
    if kind not in ROPE_TYPES:
        reasons.append(f"its positions are of type {kind}, and {', '.join(ROPE_TYPES)} are known")
    return reasons + family.reasons(config)


def rope_of(config: Any) -> dict[str, Any]:
    """Return the rotary parameters, of the layers that attend to everything where there are two kinds."""
    both: dict[str, Any] = config.rope_parameters
    found: dict[str, Any] = both.get("full_attention", both)
    return found


def gguf_metadata(shape: Shape, config: Any, ffn: tuple[int, ...]) -> Metadata:
    """Return what llama.cpp needs to know of a model, by key without the architecture's name.

    ffn   the widths that are written
    """
    by_layer = gguf_arch(shape) == BY_LAYER
    rope = rope_of(config)
    family = FAMILIES[shape.model_type]
    window = None if family.metadata in (_windows, _gemma2) else getattr(config, "sliding_window", None)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads

    def sized(values: tuple[int, ...]) -> int | list[int]:
        return list(values) if by_layer else values[0]

    found: Metadata = {
        "block_count": len(shape.ffn),
        # llama.cpp attends to everything here: beyond the window it would compute something else
        "context_length": min(config.max_position_embeddings, window or config.max_position_embeddings),
        "embedding_length": shape.hidden,
        "feed_forward_length": sized(ffn),
        "attention.head_count": sized(shape.num_heads),
        "attention.head_count_kv": sized(shape.num_kv_heads),
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.dimension_count": int(head_dim * rope.get("partial_rotary_factor", 1)),
        "rope.freq_base": float(rope["rope_theta"]),
        "vocab_size": config.vocab_size,
    }
    if rope.get("rope_type") == "linear":
        found |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}
    return found | family.metadata(config)
