"""The layers that BART, Marian and Whisper share: attention, FFN, and in decoders attention to the encoder."""

from neuromeld.archs.blocks import plain_ffn
from neuromeld.archs.spec import Norm, Space, Stack, Weight

TWO_STREAMS = "the encoder and the decoder are two streams, and a width map follows one"

CONFIG_HEADS = "attention divides its width by the number of heads in the config"


def layers_of(path: str, *, source: str | None, target: str | None, pre_norm: bool) -> tuple[Stack, Stack]:
    """Return the stacks of an encoder and its decoder, at `path` in the model.

    source, target  the entries of a batch that tell padding from real tokens on either side, if there are any
    pre_norm        whether sublayers read the stream through their norms, which otherwise stand on the stream itself
    """
    attention = _attention("self_attn", Space.HEADS, Space.KV, pre_norm)
    norms = (Norm("self_attn_layer_norm", "layer"), Norm("final_layer_norm", "layer"))
    norm = "final_layer_norm" if pre_norm else None
    ffn = plain_ffn("fc1", "fc2", norm)
    encoder = Stack(
        layers=f"{path}.encoder.layers",
        weights=(*attention, *ffn),
        norms=norms,
        mask=source,
        count_key="encoder_layers",
    )
    decoder = Stack(
        layers=f"{path}.decoder.layers",
        weights=(*attention, *_attention("encoder_attn", Space.CROSS_HEADS, Space.CROSS_KV, pre_norm), *ffn),
        norms=(*norms, Norm("encoder_attn_layer_norm", "layer")),
        mask=target,
        count_key="decoder_layers",
    )
    return encoder, decoder


def _attention(path: str, heads: Space, kv: Space, pre_norm: bool) -> tuple[Weight, ...]:
    norm = f"{path}_layer_norm" if pre_norm else None
    # What comes from the encoder is normalised there.
    norm_of_keys = norm if heads == Space.HEADS else None
    return (
        Weight(f"{path}.q_proj", in_=Space.RESIDUAL, out=heads, input_norm=norm),
        Weight(f"{path}.k_proj", in_=Space.RESIDUAL, out=kv, input_norm=norm_of_keys),
        Weight(f"{path}.v_proj", in_=Space.RESIDUAL, out=kv, input_norm=norm_of_keys),
        Weight(f"{path}.out_proj", in_=heads, out=Space.RESIDUAL),
    )
