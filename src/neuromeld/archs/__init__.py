"""The families that are known, one data file each.  To add one, write its file and list it here."""

from neuromeld.archs import bloom, gpt2, llama, mistral, opt, qwen2, qwen3
from neuromeld.archs.resolve import Architecture, resolve
from neuromeld.archs.spec import ArchSpec, Norm, Weight
from neuromeld.registry import Registry

ARCHITECTURES: Registry[ArchSpec] = Registry(
    "architecture", {m.SPEC.model_type: m.SPEC for m in (bloom, gpt2, llama, mistral, opt, qwen2, qwen3)}
)

__all__ = ["ARCHITECTURES", "ArchSpec", "Architecture", "Norm", "Weight", "resolve"]
