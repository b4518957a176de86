"""The shape that Llama, Mistral and the Qwens share: two RMSNorms a layer, q/k/v/o, gate/up/down."""

from neuromeld.archs.spec import FFN, RESIDUAL, ArchSpec, Norm, Weight

ATTENTION_NORM, FFN_NORM = "input_layernorm", "post_attention_layernorm"


def gated_decoder(
    *, model_type: str, model_class: str, query_key_norm: bool = False, width_of_whole_heads: bool = False
) -> ArchSpec:
    """The spec of a decoder of this shape.

    query_key_norm        there is a norm on every query and key head
    width_of_whole_heads  the config insists that the width is a multiple of the number of heads
    """
    head_norms = (Norm("self_attn.q_norm", "rms", over="head"), Norm("self_attn.k_norm", "rms", over="head"))
    return ArchSpec(
        model_type=model_type,
        model_class=model_class,
        layers="model.layers",
        embeddings=(Weight("model.embed_tokens", in_="vocab", out=RESIDUAL, layout="embedding"),),
        layer_weights=(
            Weight("self_attn.q_proj", in_=RESIDUAL, out="heads", reads=ATTENTION_NORM),
            Weight("self_attn.k_proj", in_=RESIDUAL, out="kv", reads=ATTENTION_NORM),
            Weight("self_attn.v_proj", in_=RESIDUAL, out="kv", reads=ATTENTION_NORM),
            Weight("self_attn.o_proj", in_="heads", out=RESIDUAL),
            Weight("mlp.gate_proj", in_=RESIDUAL, out="ffn", reads=FFN_NORM),
            Weight("mlp.up_proj", in_=RESIDUAL, out="ffn", reads=FFN_NORM),
            Weight("mlp.down_proj", in_="ffn", out=RESIDUAL),
        ),
        layer_norms=(
            Norm(ATTENTION_NORM, "rms"),
            Norm(FFN_NORM, "rms"),
            *(head_norms if query_key_norm else ()),
        ),
        final_norm=Norm("model.norm", "rms"),
        head=Weight("lm_head", in_=RESIDUAL, out="vocab", reads="model.norm"),
        stock_keys={RESIDUAL: "hidden_size", FFN: "intermediate_size"},
        head_keys=("num_attention_heads", "num_key_value_heads"),
        stock_multiple="num_attention_heads" if width_of_whole_heads else None,
        pins_head_dim=True,
    )
