"""Whisper: encoder-decoder from speech to text, LayerNorm before sublayers, convolutions before the encoder."""

from neuromeld.archs.blocks import embedding, output_head
from neuromeld.archs.encoder_decoder import CONFIG_HEADS, TWO_STREAMS, layers_of
from neuromeld.archs.spec import ArchSpec, Norm, Space

SPEC = ArchSpec(
    model_type="whisper",
    model_class="WhisperForConditionalGeneration",
    inputs="speech",
    embeddings=(
        embedding("model.decoder.embed_tokens"),
        embedding("model.decoder.embed_positions", Space.POSITIONS),
        embedding("model.encoder.embed_positions", Space.FRAMES),
    ),
    # The encoder reads, and the decoder attends to, the silence after speech as well.
    stacks=layers_of("model", source=None, target="decoder_attention_mask", pre_norm=True),
    final_norm=Norm("model.decoder.layer_norm", "layer"),
    head=output_head("proj_out", "model.decoder.layer_norm"),
    untouched_parameters=tuple(
        f"model.encoder.{module}.{name}" for module in ("conv1", "conv2", "layer_norm") for name in ("weight", "bias")
    ),
    stock_keys={Space.FFN: ("encoder_ffn_dim", "decoder_ffn_dim")},
    refusals={Space.RESIDUAL: TWO_STREAMS, Space.HEADS: CONFIG_HEADS},
)
