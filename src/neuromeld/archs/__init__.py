"""The families that are known, one data file each.  To add one, write its file and list it here."""

from neuromeld.archs import (
    bloom,
    gemma2,
    gemma3_text,
    gpt2,
    gpt_neox,
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
            gemma2,
            gemma3_text,
            gpt2,
            gpt_neox,
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

__all__ = ["ARCHITECTURES", "ArchSpec", "Architecture", "Norm", "Weight", "resolve"]
