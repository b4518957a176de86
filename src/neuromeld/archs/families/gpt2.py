"""GPT-2: LayerNorm, Conv1D matrices, fused q/k/v, learned positions."""

from neuromeld.archs.blocks import embedding, fused_attention, output_head, plain_ffn
from neuromeld.archs.spec import ArchSpec, Norm, Requirement, Space, Stack

SPEC = ArchSpec(
    model_type="gpt2",
    model_class="GPT2LMHeadModel",
    embeddings=(embedding("transformer.wte"), embedding("transformer.wpe", Space.POSITIONS)),
    stacks=(
        Stack(
            layers="transformer.h",
            weights=(
                *fused_attention("attn.c_attn", "attn.c_proj", "ln_1", "conv1d"),
                *plain_ffn("mlp.c_fc", "mlp.c_proj", "ln_2", "conv1d"),
            ),
            norms=(Norm("ln_1", "layer"), Norm("ln_2", "layer")),
        ),
    ),
    final_norm=Norm("transformer.ln_f", "layer"),
    head=output_head("lm_head", "transformer.ln_f"),
    stock_keys={Space.FFN: "n_inner"},
    native_only={
        Space.RESIDUAL: "GPT-2's config has one width for the residual stream and for attention",
    },
    refusals={Space.HEADS: "GPT-2's attention splits its fused matrix by the width of the residual stream"},
    requires=(Requirement("add_cross_attention", False, "cross-attention is not described"),),
)
