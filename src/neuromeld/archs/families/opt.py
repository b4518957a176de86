"""OPT: LayerNorm, learned positions, biases everywhere, ReLU FFN."""

from neuromeld.archs.blocks import attention, embedding, output_head, plain_ffn
from neuromeld.archs.spec import ArchSpec, NarrowEmbedding, Norm, Requirement, Space, Stack

SPEC = ArchSpec(
    model_type="opt",
    model_class="OPTForCausalLM",
    embeddings=(embedding("model.decoder.embed_tokens"), embedding("model.decoder.embed_positions", Space.POSITIONS)),
    stacks=(
        Stack(
            layers="model.decoder.layers",
            weights=(
                *attention("self_attn.{}_proj", "self_attn.out_proj", "self_attn_layer_norm", Space.HEADS),
                *plain_ffn("fc1", "fc2", "final_layer_norm"),
            ),
            norms=(Norm("self_attn_layer_norm", "layer"), Norm("final_layer_norm", "layer")),
        ),
    ),
    final_norm=Norm("model.decoder.final_layer_norm", "layer"),
    head=output_head("lm_head", "model.decoder.final_layer_norm"),
    narrow_embedding=NarrowEmbedding("word_embed_proj_dim", "model.decoder.project_in", "model.decoder.project_out"),
    stock_keys={Space.FFN: "ffn_dim"},
    native_only={
        Space.RESIDUAL: "OPT's config has one width for the residual stream and for attention",
    },
    refusals={Space.HEADS: "OPT's attention reads the number of its heads from the config, next to the width"},
    requires=(
        Requirement("do_layer_norm_before", True, "post-norm OPT (350m): its norms stand on the stream itself"),
        Requirement("layer_norm_elementwise_affine", True, "norms without gain and bias"),
        Requirement("_remove_final_layer_norm", False, "the final norm is missing"),
    ),
)
