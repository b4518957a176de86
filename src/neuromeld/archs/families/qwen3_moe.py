"""Qwen3-MoE: Qwen3 with a choice of many small experts in the place of each FFN."""

from dataclasses import replace

from neuromeld.archs.gated import EVERY_HEAD, Norms, gated_decoder
from neuromeld.archs.spec import Requirement, Space

SPEC = replace(
    gated_decoder("qwen3_moe", "Qwen3MoeForCausalLM", norms=Norms(query_key=EVERY_HEAD), experts_key="num_experts"),
    stock_keys={Space.RESIDUAL: "hidden_size", Space.FFN: "moe_intermediate_size"},
    requires=(
        Requirement("mlp_only_layers", [], "layers without experts between others"),
        Requirement("decoder_sparse_step", 1, "layers without experts between others"),
    ),
)
