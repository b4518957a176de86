"""Phi-3 and Phi-4-mini: Llama's shape with q/k/v in one matrix and gate/up in another."""

from neuromeld.archs.blocks import embedding, fused_attention, output_head
from neuromeld.archs.spec import ArchSpec, Norm, Space, Stack, Weight

SPEC = ArchSpec(
    model_type="phi3",
    model_class="Phi3ForCausalLM",
    embeddings=(embedding("model.embed_tokens"),),
    stacks=(
        Stack(
            layers="model.layers",
            weights=(
                *fused_attention("self_attn.qkv_proj", "self_attn.o_proj", "input_layernorm"),
                Weight(
                    "mlp.gate_up_proj",
                    in_=Space.RESIDUAL,
                    out=Space.FFN,
                    repeats=2,
                    input_norm="post_attention_layernorm",
                ),
                Weight("mlp.down_proj", in_=Space.FFN, out=Space.RESIDUAL),
            ),
            norms=(Norm("input_layernorm", "rms"), Norm("post_attention_layernorm", "rms")),
        ),
    ),
    final_norm=Norm("model.norm", "rms"),
    head=output_head("lm_head", "model.norm"),
    stock_keys={Space.FFN: "intermediate_size"},
    native_only={Space.RESIDUAL: "Phi-3's config checks its rotary factors against hidden_size // num_attention_heads"},
    refusals={Space.HEADS: "Phi-3's attention splits its fused matrix by the number of heads in the config"},
)
