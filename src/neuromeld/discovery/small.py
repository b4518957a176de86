"""A small config of the same structure: every switch, list and pattern as it is, every size a few dozen at most.

Keys are read by the words in their names (`hidden`, `heads`, `experts`), which mean the same in every config of
transformers; whether the result is a model, the model says, when it is built and run.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from neuromeld.discovery.axes import OF_BACKBONES, is_config

WIDTH, HEADS, HEAD_DIM, VOCABULARY, EXPERTS, POSITIONS = 64, 4, 16, 160, 8, 512

FEWEST, MOST = 3, 12
"""Layers of a small model: as many as show every kind of layer, and one more."""

DEPTH = re.compile(
    r"(^|_)(num|n)_?(hidden_|encoder_|decoder_)?layers?$|^(encoder|decoder)_layers$|^depth$|^num_blocks$"
)
WIDTHS = ("hidden_size", "d_model", "n_embd", "emb_dim", "embedding_dim", "dim")
STREAMS = re.compile(r"hidden_sizes|embed_dims?")
NARROWER, LEAST_STREAM = 4, 32
"""How much narrower than in the original the streams of stages are, where the least is this wide."""

QUERY_HEADS = re.compile(r"(num_attention|num|n|encoder_attention|decoder_attention|attention)_heads?")
HEAD_SIZES = re.compile(r"head_dim|d_head|kv_channels|dim_head|rotary_dim|d_kv|headdim|head_size")
LENGTHS = re.compile(r"max_position|n_positions|n_ctx|max_seq|max_length|context_length|model_max")
ROUTED = re.compile(r"per_tok|top_?k$|moe_k$|_topk_")
NO_SIZES = re.compile(
    r"token|position|window|conv|kernel|period|offset|interval|step|version|seed|_tp$|stride|chunk|patch|channels|"
    r"labels|shared|first_k|dense|layer|group|_index$|states$|mult|expand|ngram$|cycles|image_size|type_vocab|length|max_"
)
"""Words in the names of numbers that are no widths, or that go with the number of a layer."""


@dataclass(frozen=True)
class _Original:
    """Hold what sizes are measured by: those of the config that a key is in."""

    width: int | None
    heads: int | None
    layers: int | None


def small_config(config: PretrainedConfig, depth: int | None = None) -> PretrainedConfig:
    """Return the config with small sizes; with `depth`, with so many layers, too.

    Raises whatever the validators of the config raise where the small sizes do not go together.
    """
    return type(config).from_dict(_small(config.to_dict(), depth))


def depth_of(model: PreTrainedModel) -> int:
    """Return how many layers a model needs to have one of every kind that it has, and some that repeat.

    model  small in width, with all of its layers, on any device
    """
    lists = [
        module
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and not any(part.isdigit() for part in path.split("."))
    ]
    needed = FEWEST
    for layers in lists:
        kinds = [_kind(layer) for layer in layers]
        last_new = max((i for i, kind in enumerate(kinds) if kind not in kinds[:i]), default=0)
        needed = max(needed, last_new + 2)
    return min(needed, MOST)


def _kind(layer: nn.Module) -> tuple[Any, ...]:
    """Return all that tells layers apart: shapes, and switches that modules carry."""
    shapes = tuple((name, tuple(parameter.shape)) for name, parameter in layer.named_parameters())
    switches = tuple(
        (path, name, value)
        for path, module in layer.named_modules()
        for name, value in sorted(vars(module).items())
        if isinstance(value, bool | str | None) and not name.startswith("_")
    )
    return shapes, switches


def _small(stated: Mapping[str, Any], depth: int | None) -> dict[str, Any]:
    if isinstance(stated.get("depths"), list | tuple):
        return _small_stages(stated)
    numbers = {key: value for key, value in stated.items() if type(value) is int}
    original = _Original(
        width=next((numbers[key] for key in WIDTHS if key in numbers), None),
        heads=next((value for key, value in numbers.items() if QUERY_HEADS.fullmatch(key)), None),
        layers=max((value for key, value in numbers.items() if DEPTH.search(key)), default=None),
    )
    found = {key: _value(key, value, original, depth) for key, value in stated.items() if key not in OF_BACKBONES}
    parts = [found.get(f"qk_{part}_head_dim") for part in ("nope", "rope")]
    if "qk_head_dim" in found and all(isinstance(part, int) for part in parts):
        found["qk_head_dim"] = sum(part for part in parts if part is not None)
    return found


def _small_stages(stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return small values of a config whose layers are in stages: a few layers in each, and streams that are narrower
    by one factor.
    """
    found = {key: value for key, value in stated.items() if key not in OF_BACKBONES}
    for key, value in found.items():
        if key == "depths":
            found[key] = [min(depth, FEWEST) for depth in value]
        elif STREAMS.fullmatch(key):
            widths = value if isinstance(value, list | tuple) else [value]
            narrow = [width // NARROWER if min(widths) >= LEAST_STREAM else width for width in widths]
            found[key] = narrow if isinstance(value, list | tuple) else narrow[0]
    return found


def _value(key: str, value: Any, original: _Original, depth: int | None) -> Any:
    if isinstance(value, Mapping):
        if key == "per_layer_config" and depth is not None:
            return {k: _small(v, None) for k, v in value.items() if int(k) < depth}
        if key.startswith("rope"):
            return {k: _sections(v) if k == "mrope_section" else v for k, v in value.items()}
        return _small(value, depth) if is_config(key, value) else value
    if isinstance(value, list) and depth is not None and len(value) == original.layers:
        return [_value(key, entry, original, None) for entry in value[:depth]]
    return _size(key, value, original, depth) if type(value) is int else value


def _sections(lengths: list[int]) -> list[int]:
    """Return the lengths of parts of a head that positions of several kinds turn, of a small head."""
    most = HEAD_DIM // 2
    small = [max(1, length * most // sum(lengths)) for length in lengths]
    return [most - sum(small[1:]), *small[1:]] if sum(lengths) > most else lengths


def _size(key: str, value: int, original: _Original, depth: int | None) -> int:
    if DEPTH.search(key):
        return value if depth is None else min(value, depth)
    if key.endswith(("_id", "token_index")):
        return value if value < VOCABULARY else value % (VOCABULARY - 20) + 10
    if "vocab" in key and "type" not in key:
        return min(value, VOCABULARY)
    if ROUTED.search(key):
        return min(value, 2)
    if re.search(r"experts$|expert_num$", key) and "shared" not in key:
        return min(value, EXPERTS)
    if re.search(r"n_group$|expert_group$|topk_group", key):
        return min(value, 1 if "topk" in key else 2)
    if LENGTHS.search(key):
        return min(value, POSITIONS)
    if HEAD_SIZES.search(key):
        return min(value, HEAD_DIM)
    if "mamba" in key and key.endswith("heads"):
        return min(value, 2 * WIDTH // HEAD_DIM)
    if re.search(r"heads?$|query_groups$", key):
        return min(value, HEADS if value == original.heads or not re.search(r"kv|key", key) else HEADS // 2)
    if value == original.width:
        return min(value, WIDTH)
    if NO_SIZES.search(key) and not re.search("hidden|intermediate", key):
        return value
    if value >= WIDTH and original.width is not None and original.width > WIDTH:
        return max(16, round(value * WIDTH / original.width / 8) * 8)
    return value
