"""StableLM 2 and StableLM 3B: Llama's shape with LayerNorm and partial rotary positions."""

from dataclasses import replace

from neuromeld.archs.gated import Norms, gated_decoder
from neuromeld.archs.spec import Requirement, Space

SPEC = replace(
    gated_decoder("stablelm", "StableLmForCausalLM", norms=Norms(kind="layer")),
    stock_keys={Space.FFN: "intermediate_size"},
    native_only={Space.RESIDUAL: "StableLM's config has one width for the residual stream and for attention"},
    refusals={Space.HEADS: "StableLM's attention reads the number of its heads from the config, next to the width"},
    writes_head_dim=False,
    requires=(
        Requirement("use_parallel_residual", False, "FFNs that read attention's norm"),
        Requirement("qk_layernorm", False, "a norm for each query and key head on its own"),
    ),
)
