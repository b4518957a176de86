"""BLOOM: LayerNorm, ALiBi, fused q/k/v, and a norm between the embedding and the stream."""

from neuromeld.archs.blocks import embedding, fused_attention, output_head, plain_ffn
from neuromeld.archs.spec import ArchSpec, Norm, Requirement, Space, Stack

SPEC = ArchSpec(
    model_type="bloom",
    model_class="BloomForCausalLM",
    embeddings=(embedding("transformer.word_embeddings"),),
    embedding_norm=Norm("transformer.word_embeddings_layernorm", "layer"),
    stacks=(
        Stack(
            layers="transformer.h",
            weights=(
                *fused_attention("self_attention.query_key_value", "self_attention.dense", "input_layernorm"),
                *plain_ffn("mlp.dense_h_to_4h", "mlp.dense_4h_to_h", "post_attention_layernorm"),
            ),
            norms=(Norm("input_layernorm", "layer"), Norm("post_attention_layernorm", "layer")),
        ),
    ),
    final_norm=Norm("transformer.ln_f", "layer"),
    head=output_head("lm_head", "transformer.ln_f"),
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
