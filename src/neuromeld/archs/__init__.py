"""The families that are known, one data file each.  To add one, write its file and list it here."""

from neuromeld.archs import (
    bloom,
    gemma,
    gemma2,
    gemma3_text,
    gpt2,
    gpt_neox,
    granite,
    llama,
    mistral,
    olmo2,
    olmo3,
    opt,
    phi3,
    qwen2,
    qwen3,
    smollm3,
    stablelm,
)
from neuromeld.archs.resolve import Architecture, resolve
from neuromeld.archs.spec import ArchSpec, Norm, Weight
from neuromeld.registry import Registry

ARCHITECTURES: Registry[ArchSpec] = Registry(
    "architecture",
    {
        m.SPEC.model_type: m.SPEC
        for m in (
            bloom,
            gemma,
            gemma2,
            gemma3_text,
            gpt2,
            gpt_neox,
            granite,
            llama,
            mistral,
            olmo2,
            olmo3,
            opt,
            phi3,
            qwen2,
            qwen3,
            smollm3,
            stablelm,
        )
    },
)

_EXPERTS = "its experts are stacked in tensors of three axes, which no method reads yet"

UNSUPPORTED = {
    "deepseek_v3": _EXPERTS,
    "gemma3": "images beside text; its text part alone is the architecture gemma3_text",
    "gpt_oss": _EXPERTS,
    "granitemoe": _EXPERTS,
    "mixtral": _EXPERTS,
    "olmoe": _EXPERTS,
    "qwen2_moe": _EXPERTS,
    "qwen3_moe": _EXPERTS,
}
"""Architectures that were looked at and are refused, and why."""

__all__ = ["ARCHITECTURES", "UNSUPPORTED", "ArchSpec", "Architecture", "Norm", "Weight", "resolve"]
