"""BLOOM: LayerNorm, ALiBi, fused q/k/v, and a norm between the embedding and the stream."""

from neuromeld.archs.spec import FFN, HEADS, RESIDUAL, ArchSpec, Norm, Requirement, Stack, Weight

SPEC = ArchSpec(
    model_type="bloom",
    model_class="BloomForCausalLM",
    embeddings=(Weight("transformer.word_embeddings", in_="vocab", out=RESIDUAL, layout="embedding"),),
    embedding_norm=Norm("transformer.word_embeddings_layernorm", "layer"),
    stacks=(
        Stack(
            layers="transformer.h",
            weights=(
                Weight("self_attention.query_key_value", in_=RESIDUAL, out="qkv", input_norm="input_layernorm"),
                Weight("self_attention.dense", in_="heads", out=RESIDUAL),
                Weight("mlp.dense_h_to_4h", in_=RESIDUAL, out="ffn", input_norm="post_attention_layernorm"),
                Weight("mlp.dense_4h_to_h", in_="ffn", out=RESIDUAL),
            ),
            norms=(Norm("input_layernorm", "layer"), Norm("post_attention_layernorm", "layer")),
        ),
    ),
    final_norm=Norm("transformer.ln_f", "layer"),
    head=Weight("lm_head", in_=RESIDUAL, out="vocab", input_norm="transformer.ln_f"),
    native_only={
        RESIDUAL: "BLOOM's config has one width for the residual stream and for attention",
        FFN: "BLOOM's FFN is always four times as wide as the residual stream",
    },
    refusals={HEADS: "ALiBi gives every head a slope by its place among all heads"},
    requires=(
        Requirement("apply_residual_connection_post_layernorm", False, "the residual starts after the norm"),
        Requirement("slow_but_exact", False, "tensor-parallel slicing by hidden size"),
    ),
)
