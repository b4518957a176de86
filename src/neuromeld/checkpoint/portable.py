"""The configs of a checkpoint as other machines, and transformers 4, read them."""

from typing import Any

STOCK_NEEDS, NATIVE_NEEDS = "4.57", "5.20"
"""The oldest transformers in which stock and native checkpoints were seen to give the same logits."""

PLACES = frozenset(
    {
        *("_name_or_path", "name_or_path", "tokenizer_file", "vocab_file", "merges_file", "special_tokens_map_file"),
        *("feature_extractor_file", "cache_dir", "local_files_only", "is_local", "processor_file"),
    }
)
"""Keys that say where files lay on the machine that wrote them."""


def without_places(content: Any) -> Any:
    """Return a config without anything that says where it was made."""
    if isinstance(content, dict):
        return {key: without_places(value) for key, value in content.items() if key not in PLACES}
    return [without_places(value) for value in content] if isinstance(content, list) else content


def with_older_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config that also says what transformers 4 asks for under other names: rotary embeddings, dtype,
    experts.
    """
    older: dict[str, Any] = {"torch_dtype": config["dtype"]} if config.get("dtype") else {}
    rope = config.get("rope_parameters") or {}
    local = rope.get("sliding_attention")
    rope = rope.get("full_attention", rope)
    if "rope_theta" in rope:
        scaling = {key: rope[key] for key in rope if key not in ("rope_theta", "partial_rotary_factor")}
        older["rope_theta"] = rope["rope_theta"]
        older["rope_scaling"] = None if scaling.get("rope_type", "default") == "default" else scaling
        if "partial_rotary_factor" in rope:
            older["partial_rotary_factor"] = rope["partial_rotary_factor"]
        if local is not None:
            older["rope_local_base_freq"] = local.get("rope_theta")
        if config.get("model_type") == "gpt_neox":
            older["rotary_emb_base"] = rope["rope_theta"]
            older["rotary_pct"] = rope.get("partial_rotary_factor", 1.0)
    if config.get("model_type") == "qwen3_moe" and "num_local_experts" in config:
        older["num_experts"] = config["num_local_experts"]
    return older | config


def with_older_tokenizer(config: dict[str, Any]) -> dict[str, Any]:
    """Return a tokenizer's config whose class and special tokens transformers 4 knows, too."""
    config = dict(config)
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(extra := config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = extra
        del config["extra_special_tokens"]
    return config
