"""Phi-3 and Phi-4-mini: Llama's shape with q/k/v in one matrix and gate/up in another."""

from neuromeld.archs.spec import FFN, HEADS, RESIDUAL, ArchSpec, Norm, Stack, Weight

SPEC = ArchSpec(
    model_type="phi3",
    model_class="Phi3ForCausalLM",
    embeddings=(Weight("model.embed_tokens", in_="vocab", out=RESIDUAL, layout="embedding"),),
    stacks=(
        Stack(
            layers="model.layers",
            weights=(
                Weight("self_attn.qkv_proj", in_=RESIDUAL, out="qkv", input_norm="input_layernorm"),
                Weight("self_attn.o_proj", in_="heads", out=RESIDUAL),
                Weight("mlp.gate_up_proj", in_=RESIDUAL, out="ffn", repeats=2, input_norm="post_attention_layernorm"),
                Weight("mlp.down_proj", in_="ffn", out=RESIDUAL),
            ),
            norms=(Norm("input_layernorm", "rms"), Norm("post_attention_layernorm", "rms")),
        ),
    ),
    final_norm=Norm("model.norm", "rms"),
    head=Weight("lm_head", in_=RESIDUAL, out="vocab", input_norm="model.norm"),
    stock_keys={FFN: "intermediate_size"},
    native_only={RESIDUAL: "Phi-3's config checks its rotary factors against hidden_size // num_attention_heads"},
    refusals={HEADS: "Phi-3's attention splits its fused matrix by the number of heads in the config"},
)
