"""GPT-NeoX and Pythia: LayerNorm, attention and FFN side by side, q/k/v fused head by head."""

from neuromeld.archs.blocks import embedding, fused_attention, output_head, plain_ffn
from neuromeld.archs.spec import ArchSpec, Norm, Space, Stack

HEAD_SIZE = "GPT-NeoX's config has no head size apart from hidden_size // num_attention_heads"

SPEC = ArchSpec(
    model_type="gpt_neox",
    model_class="GPTNeoXForCausalLM",
    embeddings=(embedding("gpt_neox.embed_in"),),
    stacks=(
        Stack(
            layers="gpt_neox.layers",
            weights=(
                *fused_attention("attention.query_key_value", "attention.dense", "input_layernorm"),
                *plain_ffn("mlp.dense_h_to_4h", "mlp.dense_4h_to_h", "post_attention_layernorm"),
            ),
            norms=(Norm("input_layernorm", "layer"), Norm("post_attention_layernorm", "layer")),
        ),
    ),
    final_norm=Norm("gpt_neox.final_layer_norm", "layer"),
    head=output_head("lm_head", "gpt_neox.final_layer_norm"),
    stock_keys={Space.FFN: "intermediate_size"},
    native_only={Space.RESIDUAL: HEAD_SIZE, Space.HEADS: HEAD_SIZE},
    head_keys=("num_attention_heads", "num_attention_heads"),
)
