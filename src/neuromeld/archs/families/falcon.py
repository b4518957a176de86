"""Falcon 7B: LayerNorm, attention and FFN side by side on one norm, one key and value for all heads."""

from neuromeld.archs.spec import ArchSpec, Norm, Requirement, Space, Stack, Weight

SPEC = ArchSpec(
    model_type="falcon",
    model_class="FalconForCausalLM",
    embeddings=(Weight("transformer.word_embeddings", in_=Space.VOCAB, out=Space.RESIDUAL, layout="embedding"),),
    stacks=(
        Stack(
            layers="transformer.h",
            weights=(
                Weight(
                    "self_attention.query_key_value", in_=Space.RESIDUAL, out=Space.QKV, input_norm="input_layernorm"
                ),
                Weight("self_attention.dense", in_=Space.HEADS, out=Space.RESIDUAL),
                Weight("mlp.dense_h_to_4h", in_=Space.RESIDUAL, out=Space.FFN, input_norm="input_layernorm"),
                Weight("mlp.dense_4h_to_h", in_=Space.FFN, out=Space.RESIDUAL),
            ),
            norms=(Norm("input_layernorm", "layer"),),
        ),
    ),
    final_norm=Norm("transformer.ln_f", "layer"),
    head=Weight("lm_head", in_=Space.RESIDUAL, out=Space.VOCAB, input_norm="transformer.ln_f"),
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
