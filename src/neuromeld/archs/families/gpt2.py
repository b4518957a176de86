"""GPT-2: LayerNorm, Conv1D matrices, fused q/k/v, learned positions."""

from neuromeld.archs.spec import ArchSpec, Norm, Requirement, Space, Stack, Weight

SPEC = ArchSpec(
    model_type="gpt2",
    model_class="GPT2LMHeadModel",
    embeddings=(
        Weight("transformer.wte", in_=Space.VOCAB, out=Space.RESIDUAL, layout="embedding"),
        Weight("transformer.wpe", in_=Space.POSITIONS, out=Space.RESIDUAL, layout="embedding"),
    ),
    stacks=(
        Stack(
            layers="transformer.h",
            weights=(
                Weight("attn.c_attn", in_=Space.RESIDUAL, out=Space.QKV, input_norm="ln_1", layout="conv1d"),
                Weight("attn.c_proj", in_=Space.HEADS, out=Space.RESIDUAL, layout="conv1d"),
                Weight("mlp.c_fc", in_=Space.RESIDUAL, out=Space.FFN, input_norm="ln_2", layout="conv1d"),
                Weight("mlp.c_proj", in_=Space.FFN, out=Space.RESIDUAL, layout="conv1d"),
            ),
            norms=(Norm("ln_1", "layer"), Norm("ln_2", "layer")),
        ),
    ),
    final_norm=Norm("transformer.ln_f", "layer"),
    head=Weight("lm_head", in_=Space.RESIDUAL, out=Space.VOCAB, input_norm="transformer.ln_f"),
    stock_keys={Space.FFN: "n_inner"},
    native_only={
        Space.RESIDUAL: "GPT-2's config has one width for the residual stream and for attention",
    },
    refusals={Space.HEADS: "GPT-2's attention splits its fused matrix by the width of the residual stream"},
    requires=(Requirement("add_cross_attention", False, "cross-attention is not described"),),
)
