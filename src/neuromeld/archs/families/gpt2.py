"""GPT-2: LayerNorm, Conv1D matrices, fused q/k/v, learned positions."""

from neuromeld.archs.spec import FFN, HEADS, RESIDUAL, ArchSpec, Norm, Requirement, Stack, Weight

SPEC = ArchSpec(
    model_type="gpt2",
    model_class="GPT2LMHeadModel",
    embeddings=(
        Weight("transformer.wte", in_="vocab", out=RESIDUAL, layout="embedding"),
        Weight("transformer.wpe", in_="positions", out=RESIDUAL, layout="embedding"),
    ),
    stacks=(
        Stack(
            layers="transformer.h",
            weights=(
                Weight("attn.c_attn", in_=RESIDUAL, out="qkv", input_norm="ln_1", layout="conv1d"),
                Weight("attn.c_proj", in_="heads", out=RESIDUAL, layout="conv1d"),
                Weight("mlp.c_fc", in_=RESIDUAL, out="ffn", input_norm="ln_2", layout="conv1d"),
                Weight("mlp.c_proj", in_="ffn", out=RESIDUAL, layout="conv1d"),
            ),
            norms=(Norm("ln_1", "layer"), Norm("ln_2", "layer")),
        ),
    ),
    final_norm=Norm("transformer.ln_f", "layer"),
    head=Weight("lm_head", in_=RESIDUAL, out="vocab", input_norm="transformer.ln_f"),
    stock_keys={FFN: "n_inner"},
    native_only={
        RESIDUAL: "GPT-2's config has one width for the residual stream and for attention",
    },
    refusals={HEADS: "GPT-2's attention splits its fused matrix by the width of the residual stream"},
    requires=(Requirement("add_cross_attention", False, "cross-attention is not described"),),
)
