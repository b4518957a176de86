"""mBART: encoder-decoder with LayerNorm before sublayers and on the embeddings, learned positions, many languages."""

from neuromeld.archs.blocks import embedding, output_head
from neuromeld.archs.encoder_decoder import CONFIG_HEADS, TWO_STREAMS, layers_of
from neuromeld.archs.spec import ArchSpec, Norm, Space

SPEC = ArchSpec(
    model_type="mbart",
    model_class="MBartForConditionalGeneration",
    inputs="pairs",
    embeddings=(
        embedding("model.shared"),
        embedding("model.encoder.embed_positions", Space.POSITIONS),
        embedding("model.decoder.embed_positions", Space.POSITIONS),
    ),
    stacks=layers_of("model", source="attention_mask", target="decoder_attention_mask", pre_norm=True),
    final_norm=Norm("model.decoder.layer_norm", "layer"),
    head=output_head("lm_head", "model.decoder.layer_norm"),
    untouched_parameters=tuple(
        f"model.{norm}.{name}"
        for norm in ("encoder.layernorm_embedding", "decoder.layernorm_embedding", "encoder.layer_norm")
        for name in ("weight", "bias")
    ),
    token_vectors=("final_logits_bias",),
    stock_keys={Space.FFN: ("encoder_ffn_dim", "decoder_ffn_dim")},
    refusals={Space.RESIDUAL: TWO_STREAMS, Space.HEADS: CONFIG_HEADS},
)
