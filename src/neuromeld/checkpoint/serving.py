"""Which engines serve a checkpoint, by its record: the one place that card and report ask."""

from collections.abc import Mapping
from typing import Any


def only_ffns_differ(record: Mapping[str, Any]) -> bool:
    """Tell whether a native checkpoint differs from a stock one in the widths of its FFNs alone."""
    before, after = record.get("sizes_before"), record.get("sizes_after")
    if not before or not after:
        return False
    same_heads = set(before["num_kv_heads"]) == set(after["num_kv_heads"])
    return bool(before["hidden"] == after["hidden"] and same_heads and after["shared_ffns"] == 1)


def served_by(record: Mapping[str, Any]) -> str:
    """Say in a sentence which engines load the checkpoint, and which do not."""
    family = record.get("model_type", "")
    if record["format"] == "stock":
        return (
            f"It is a stock {family} checkpoint: plain transformers loads it, without neuromeld, and so does every "
            "engine that serves this family at uniform sizes."
        )
    native = (
        f"It is a native checkpoint: a stock {family} config cannot describe it. transformers loads it with neuromeld"
    )
    if only_ffns_differ(record):
        return (
            f"{native}; vLLM's transformers backend is told of it by neuromeld's plug-in, since only the widths of its "
            "FFNs differ by layer (docs/serving.md says what was tried); llama.cpp cannot read it."
        )
    return f"{native}; vLLM and llama.cpp cannot read it."
