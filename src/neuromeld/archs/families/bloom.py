"""BLOOM: LayerNorm, ALiBi, fused q/k/v, and a norm between the embedding and the stream."""

from neuromeld.archs.spec import ArchSpec, Norm, Requirement, Space, Stack, Weight

SPEC = ArchSpec(
    model_type="bloom",
    model_class="BloomForCausalLM",
    embeddings=(Weight("transformer.word_embeddings", in_=Space.VOCAB, out=Space.RESIDUAL, layout="embedding"),),
    embedding_norm=Norm("transformer.word_embeddings_layernorm", "layer"),
    stacks=(
        Stack(
            layers="transformer.h",
            weights=(
                Weight(
                    "self_attention.query_key_value", in_=Space.RESIDUAL, out=Space.QKV, input_norm="input_layernorm"
                ),
                Weight("self_attention.dense", in_=Space.HEADS, out=Space.RESIDUAL),
                Weight("mlp.dense_h_to_4h", in_=Space.RESIDUAL, out=Space.FFN, input_norm="post_attention_layernorm"),
                Weight("mlp.dense_4h_to_h", in_=Space.FFN, out=Space.RESIDUAL),
            ),
            norms=(Norm("input_layernorm", "layer"), Norm("post_attention_layernorm", "layer")),
        ),
    ),
    final_norm=Norm("transformer.ln_f", "layer"),
    head=Weight("lm_head", in_=Space.RESIDUAL, out=Space.VOCAB, input_norm="transformer.ln_f"),
    native_only={
        Space.RESIDUAL: "BLOOM's config has one width for the residual stream and for attention",
        Space.FFN: "BLOOM's FFN is always four times as wide as the residual stream",
    },
    refusals={Space.HEADS: "ALiBi gives every head a slope by its place among all heads"},
    requires=(
        Requirement("apply_residual_connection_post_layernorm", False, "the residual starts after the norm"),
        Requirement("slow_but_exact", False, "tensor-parallel slicing by hidden size"),
    ),
)
