"""Which engines load a checkpoint: the one place that the card, the report, the docs and `serve-check` ask."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import PretrainedConfig

from neuromeld.checkpoint.export.block_configs import MULT_STEP
from neuromeld.checkpoint.export.form import Verdict
from neuromeld.checkpoint.export.forms import FORMS
from neuromeld.checkpoint.export.gguf_file import Q8_BLOCK
from neuromeld.checkpoint.export.quantised import K_BLOCK, Q8_0, TYPES
from neuromeld.checkpoint.export.shape import SHARED, Shape, shape_of
from neuromeld.checkpoint.portable import NATIVE_NEEDS, STOCK_NEEDS

UNTRIED = "not tried"

VLLM_TYPES = frozenset(
    {
        *("bloom", "falcon", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "granite", "llama", "mistral"),
        *("mixtral", "olmo2", "olmo3", "opt", "phi3", "qwen2", "qwen3", "qwen3_moe", "smollm3", "stablelm"),
        *("bert", "roberta", "whisper"),
    }
)
"""Families that the registry of vLLM 0.32 names."""

MLX_TYPES = frozenset({"gemma", "gemma2", "gemma3_text", "llama", "mistral", "mixtral", "phi3", "qwen2", "qwen3"})
"""Families that MLX-LM, SGLang and TensorRT-LLM all document."""


ROWS = {kind: Q8_BLOCK if kind == Q8_0 else K_BLOCK for kind in TYPES}
"""The weights of a row that go together in each of llama.cpp's types; a row of others is written in a larger type."""


@dataclass(frozen=True)
class Engine:
    """An engine that serves models.

    tried    the versions that were run here, or that it was not
    stock    the families that it loads as they are; none where it has a format of its own
    form     of `FORMS`: what it loads where it does not load the checkpoint as it is
    splits   whether it shares every matrix among cards
    by_layer what it wants widths to be multiples of where layers differ
    rows     the types that it quantises to, by the weights of a row that go together
    """

    name: str
    tried: str
    stock: frozenset[str]
    form: str
    splits: bool = True
    by_layer: int = 1
    rows: Mapping[str, int] = field(default_factory=dict)

    def verdict(self, shape: Shape, config: Any, *, untie: bool = False) -> Verdict:
        """Say how the engine loads a checkpoint of this shape, or why it does not.

        untie   shared FFNs may be written as full copies
        """
        if not shape.native and shape.model_type in self.stock:
            return Verdict(self.name, self.tried, "as it is")
        reasons = FORMS[self.form].reasons(shape, config)
        if not shape.native and self.stock:
            reasons = [f"it does not document {shape.model_type}"]
        copies = shape.shared and not untie
        if copies and not reasons:
            reasons = [f"{SHARED} are loaded by no engine as shared; `neuromeld export --untie` writes full copies"]
        if reasons:
            return Verdict(self.name, self.tried, None, tuple(reasons))
        return Verdict(self.name, self.tried, f"after `neuromeld export --to {self.form}`")


ENGINES = (
    Engine("vLLM", "0.32.0 on a processor", VLLM_TYPES, "vllm"),
    Engine("llama.cpp", "llama-cpp-python 0.3.36", frozenset(), "gguf", splits=False, rows=ROWS),
    Engine("MLX-LM", UNTRIED, MLX_TYPES, "mlx", by_layer=MULT_STEP),
    Engine("SGLang", UNTRIED, MLX_TYPES, "mlx", by_layer=MULT_STEP),
    Engine("TensorRT-LLM", UNTRIED, MLX_TYPES, "mlx", by_layer=MULT_STEP),
)


def verdicts(config: PretrainedConfig) -> list[Verdict]:
    """Say of every engine whether it loads the checkpoint with this config: transformers first."""
    shape = shape_of(config)
    how = "with `import neuromeld`, or trust_remote_code=True" if shape.native else "as it is"
    needs = NATIVE_NEEDS if shape.native else STOCK_NEEDS
    return [Verdict("transformers", f"{needs} and newer", how), *(one.verdict(shape, config) for one in ENGINES)]
