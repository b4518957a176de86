"""Falcon 7B: LayerNorm, attention and FFN side by side on one norm, one key and value for all heads."""

from neuromeld.archs.spec import FFN, HEADS, RESIDUAL, ArchSpec, Norm, Requirement, Stack, Weight

SPEC = ArchSpec(
    model_type="falcon",
    model_class="FalconForCausalLM",
    embeddings=(Weight("transformer.word_embeddings", in_="vocab", out=RESIDUAL, layout="embedding"),),
    stacks=(
        Stack(
            layers="transformer.h",
            weights=(
                Weight("self_attention.query_key_value", in_=RESIDUAL, out="qkv", input_norm="input_layernorm"),
                Weight("self_attention.dense", in_="heads", out=RESIDUAL),
                Weight("mlp.dense_h_to_4h", in_=RESIDUAL, out="ffn", input_norm="input_layernorm"),
                Weight("mlp.dense_4h_to_h", in_="ffn", out=RESIDUAL),
            ),
            norms=(Norm("input_layernorm", "layer"),),
        ),
    ),
    final_norm=Norm("transformer.ln_f", "layer"),
    head=Weight("lm_head", in_=RESIDUAL, out="vocab", input_norm="transformer.ln_f"),
    stock_keys={FFN: "ffn_hidden_size"},
    native_only={RESIDUAL: "Falcon's config has one width for the residual stream and for attention"},
    refusals={HEADS: "Falcon's attention reads the number of its heads from the config, next to the width"},
    requires=(
        Requirement(
            "new_decoder_architecture", False, "Falcon 40B and 11B, with norms and groups of heads of their own"
        ),
        Requirement("parallel_attn", True, "Falcon RW, whose FFN comes after attention"),
    ),
)
