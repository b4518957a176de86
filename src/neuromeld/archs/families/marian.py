"""Marian and OPUS-MT: encoder-decoder with norms on the stream itself, sinusoidal positions, one vocabulary or two."""

from dataclasses import replace

from neuromeld.archs.encoder_decoder import CONFIG_HEADS, TWO_STREAMS, layers_of
from neuromeld.archs.spec import ArchSpec, Requirement, Space, Weight

_SHARED = ArchSpec(
    model_type="marian",
    model_class="MarianMTModel",
    inputs="pairs",
    embeddings=(
        Weight("model.shared", in_=Space.VOCAB, out=Space.RESIDUAL, layout="embedding"),
        Weight("model.encoder.embed_positions", in_=Space.POSITIONS, out=Space.RESIDUAL, layout="embedding"),
        Weight("model.decoder.embed_positions", in_=Space.POSITIONS, out=Space.RESIDUAL, layout="embedding"),
    ),
    stacks=layers_of("model", source="attention_mask", target="decoder_attention_mask", pre_norm=False),
    head=Weight("lm_head", in_=Space.RESIDUAL, out=Space.VOCAB),
    token_vectors=("final_logits_bias",),
    stock_keys={Space.FFN: ("encoder_ffn_dim", "decoder_ffn_dim")},
    refusals={Space.RESIDUAL: TWO_STREAMS, Space.HEADS: CONFIG_HEADS},
    requires=(
        Requirement("share_encoder_decoder_embeddings", True, "a vocabulary for each side"),
        Requirement("tie_word_embeddings", True, "a head apart from the embedding"),
    ),
)

_APART = replace(
    _SHARED,
    embeddings=(
        Weight("model.encoder.embed_tokens", in_=Space.VOCAB, out=Space.RESIDUAL, layout="embedding"),
        Weight("model.decoder.embed_tokens", in_=Space.TARGET_VOCAB, out=Space.RESIDUAL, layout="embedding"),
        *_SHARED.embeddings[1:],
    ),
    head=Weight("lm_head", in_=Space.RESIDUAL, out=Space.TARGET_VOCAB),
    requires=(
        Requirement("share_encoder_decoder_embeddings", False, "one vocabulary for both sides"),
        *_SHARED.requires[1:],
    ),
)

SPEC = replace(_SHARED, variants=(_APART,))
