"""T5, T5 1.1 and Flan-T5: encoder-decoder, RMSNorm, relative positions, plain or gated FFN."""

from dataclasses import replace

from neuromeld.archs.blocks import embedding, output_head
from neuromeld.archs.encoder_decoder import TWO_STREAMS
from neuromeld.archs.spec import ArchSpec, FirstOnly, Norm, Requirement, Space, Stack, Weight


def _stack(name: str, *, gated: bool) -> Stack:
    decodes = name == "decoder"
    attentions = [
        ("layer.0.SelfAttention", Space.HEADS, Space.KV),
        ("layer.1.EncDecAttention", Space.CROSS_HEADS, Space.CROSS_KV),
    ]
    ffn = 2 if decodes else 1
    ffn_norm = f"layer.{ffn}.layer_norm"
    inputs = ("wi_0", "wi_1") if gated else ("wi",)
    return Stack(
        layers=f"{name}.block",
        weights=(
            *(
                weight
                for index, (path, heads, kv) in enumerate(attentions[:ffn])
                for weight in (
                    Weight(f"{path}.q", in_=Space.RESIDUAL, out=heads, input_norm=f"layer.{index}.layer_norm"),
                    Weight(f"{path}.k", in_=Space.RESIDUAL, out=kv, input_norm=None if index else "layer.0.layer_norm"),
                    Weight(f"{path}.v", in_=Space.RESIDUAL, out=kv, input_norm=None if index else "layer.0.layer_norm"),
                    Weight(f"{path}.o", in_=heads, out=Space.RESIDUAL),
                )
            ),
            *(
                Weight(f"layer.{ffn}.DenseReluDense.{i}", in_=Space.RESIDUAL, out=Space.FFN, input_norm=ffn_norm)
                for i in inputs
            ),
            Weight(f"layer.{ffn}.DenseReluDense.wo", in_=Space.FFN, out=Space.RESIDUAL),
        ),
        norms=tuple(Norm(f"layer.{index}.layer_norm", "rms") for index in range(ffn + 1)),
        first_only=FirstOnly("layer.0.SelfAttention", "relative_attention_bias", "has_relative_attention_bias"),
        mask="decoder_attention_mask" if decodes else "attention_mask",
        count_key="num_decoder_layers" if decodes else "num_layers",
    )


SPEC = ArchSpec(
    model_type="t5",
    model_class="T5ForConditionalGeneration",
    inputs="pairs",
    embeddings=(embedding("shared"),),
    stacks=(_stack("encoder", gated=False), _stack("decoder", gated=False)),
    final_norm=Norm("decoder.final_layer_norm", "rms"),
    head=output_head("lm_head", "decoder.final_layer_norm"),
    untouched_parameters=("encoder.final_layer_norm.weight",),
    stock_keys={Space.FFN: "d_ff"},
    refusals={
        Space.RESIDUAL: TWO_STREAMS,
        Space.HEADS: "the relative positions have a bias for every head, of which there is one table for all layers",
    },
    requires=(Requirement("is_gated_act", False, "a gated FFN"),),
)

SPEC = replace(
    SPEC,
    variants=(
        replace(
            SPEC,
            stacks=(_stack("encoder", gated=True), _stack("decoder", gated=True)),
            requires=(Requirement("is_gated_act", True, "a plain FFN"),),
        ),
    ),
)
