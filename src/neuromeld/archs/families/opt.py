"""OPT: LayerNorm, learned positions, biases everywhere, ReLU FFN."""

from neuromeld.archs.spec import ArchSpec, Norm, Requirement, Space, Stack, Weight

SPEC = ArchSpec(
    model_type="opt",
    model_class="OPTForCausalLM",
    embeddings=(
        Weight("model.decoder.embed_tokens", in_=Space.VOCAB, out=Space.RESIDUAL, layout="embedding"),
        Weight("model.decoder.embed_positions", in_=Space.POSITIONS, out=Space.RESIDUAL, layout="embedding"),
    ),
    stacks=(
        Stack(
            layers="model.decoder.layers",
            weights=(
                Weight("self_attn.q_proj", in_=Space.RESIDUAL, out=Space.HEADS, input_norm="self_attn_layer_norm"),
                Weight("self_attn.k_proj", in_=Space.RESIDUAL, out=Space.HEADS, input_norm="self_attn_layer_norm"),
                Weight("self_attn.v_proj", in_=Space.RESIDUAL, out=Space.HEADS, input_norm="self_attn_layer_norm"),
                Weight("self_attn.out_proj", in_=Space.HEADS, out=Space.RESIDUAL),
                Weight("fc1", in_=Space.RESIDUAL, out=Space.FFN, input_norm="final_layer_norm"),
                Weight("fc2", in_=Space.FFN, out=Space.RESIDUAL),
            ),
            norms=(Norm("self_attn_layer_norm", "layer"), Norm("final_layer_norm", "layer")),
        ),
    ),
    final_norm=Norm("model.decoder.final_layer_norm", "layer"),
    head=Weight("lm_head", in_=Space.RESIDUAL, out=Space.VOCAB, input_norm="model.decoder.final_layer_norm"),
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
