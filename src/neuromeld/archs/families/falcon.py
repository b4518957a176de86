"""Falcon 7B: LayerNorm, attention and FFN side by side on one norm, one key and value for all heads."""

from neuromeld.archs.blocks import embedding, fused_attention, output_head, plain_ffn
from neuromeld.archs.spec import ArchSpec, Norm, Requirement, Space, Stack

SPEC = ArchSpec(
    model_type="falcon",
    model_class="FalconForCausalLM",
    embeddings=(embedding("transformer.word_embeddings"),),
    stacks=(
        Stack(
            layers="transformer.h",
            weights=(
                *fused_attention("self_attention.query_key_value", "self_attention.dense", "input_layernorm"),
                *plain_ffn("mlp.dense_h_to_4h", "mlp.dense_4h_to_h", "input_layernorm"),
            ),
            norms=(Norm("input_layernorm", "layer"),),
        ),
    ),
    final_norm=Norm("transformer.ln_f", "layer"),
    head=output_head("lm_head", "transformer.ln_f"),
    stock_keys={Space.FFN: "ffn_hidden_size"},
    native_only={Space.RESIDUAL: "Falcon's config has one width for the residual stream and for attention"},
    refusals={Space.HEADS: "Falcon's attention reads the number of its heads from the config, next to the width"},
    requires=(
        Requirement(
            "new_decoder_architecture", False, "Falcon 40B and 11B, with norms and groups of heads of their own"
        ),
        Requirement("parallel_attn", True, "Falcon RW, whose FFN comes after attention"),
    ),
)
