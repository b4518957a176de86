"""BART: encoder-decoder with norms on the stream itself and on its embeddings, learned positions."""

from neuromeld.archs.encoder_decoder import CONFIG_HEADS, TWO_STREAMS, layers_of
from neuromeld.archs.spec import ArchSpec, Space, Weight

SPEC = ArchSpec(
    model_type="bart",
    model_class="BartForConditionalGeneration",
    inputs="pairs",
    embeddings=(
        Weight("model.shared", in_=Space.VOCAB, out=Space.RESIDUAL, layout="embedding"),
        Weight("model.encoder.embed_positions", in_=Space.POSITIONS, out=Space.RESIDUAL, layout="embedding"),
        Weight("model.decoder.embed_positions", in_=Space.POSITIONS, out=Space.RESIDUAL, layout="embedding"),
    ),
    stacks=layers_of("model", source="attention_mask", target="decoder_attention_mask", pre_norm=False),
    head=Weight("lm_head", in_=Space.RESIDUAL, out=Space.VOCAB),
    untouched_parameters=tuple(
        f"model.{side}.layernorm_embedding.{name}" for side in ("encoder", "decoder") for name in ("weight", "bias")
    ),
    token_vectors=("final_logits_bias",),
    stock_keys={Space.FFN: ("encoder_ffn_dim", "decoder_ffn_dim")},
    refusals={Space.RESIDUAL: TWO_STREAMS, Space.HEADS: CONFIG_HEADS},
)
