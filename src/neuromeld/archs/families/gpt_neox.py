"""GPT-NeoX and Pythia: LayerNorm, attention and FFN side by side, q/k/v fused head by head."""

from neuromeld.archs.spec import ArchSpec, Norm, Space, Stack, Weight

HEAD_SIZE = "GPT-NeoX's config has no head size apart from hidden_size // num_attention_heads"

SPEC = ArchSpec(
    model_type="gpt_neox",
    model_class="GPTNeoXForCausalLM",
    embeddings=(Weight("gpt_neox.embed_in", in_=Space.VOCAB, out=Space.RESIDUAL, layout="embedding"),),
    stacks=(
        Stack(
            layers="gpt_neox.layers",
            weights=(
                Weight("attention.query_key_value", in_=Space.RESIDUAL, out=Space.QKV, input_norm="input_layernorm"),
                Weight("attention.dense", in_=Space.HEADS, out=Space.RESIDUAL),
                Weight("mlp.dense_h_to_4h", in_=Space.RESIDUAL, out=Space.FFN, input_norm="post_attention_layernorm"),
                Weight("mlp.dense_4h_to_h", in_=Space.FFN, out=Space.RESIDUAL),
            ),
            norms=(Norm("input_layernorm", "layer"), Norm("post_attention_layernorm", "layer")),
        ),
    ),
    final_norm=Norm("gpt_neox.final_layer_norm", "layer"),
    head=Weight("lm_head", in_=Space.RESIDUAL, out=Space.VOCAB, input_norm="gpt_neox.final_layer_norm"),
    stock_keys={Space.FFN: "intermediate_size"},
    native_only={Space.RESIDUAL: HEAD_SIZE, Space.HEADS: HEAD_SIZE},
    head_keys=("num_attention_heads", "num_attention_heads"),
)
