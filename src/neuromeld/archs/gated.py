"""The shape that Llama, Mistral, the Qwens and many more share: RMSNorms, q/k/v/o, gate/up/down."""

from typing import Literal

from neuromeld.archs.spec import ArchSpec, Norm, NormKind, Scale, Space, Stack, Weight

EXPERT_MULTIPLE = 8
"""`torch.nn.functional.grouped_mm`, which transformers runs experts with, wants rows of a multiple of 16 bytes."""

EXPERT_REFUSALS = {
    "share_ffns": "an expert has no counterpart in the next layer",
    "remove_ffns": "the routers would be left over",
}


def gated_decoder(
    *,
    model_type: str,
    model_class: str,
    input_norms: tuple[str | None, str | None] = ("input_layernorm", "post_attention_layernorm"),
    output_norms: tuple[str, ...] = (),
    norm_kind: NormKind = "rms",
    norm_offset: float = 0.0,
    query_key_norm: Literal["head", "heads"] | None = None,
    hidden_multiple_of_heads: bool = False,
    experts: bool = False,
) -> ArchSpec:
    """Return the spec of a decoder of this shape.

    input_norms           the norms that attention and FFN read the stream through
    output_norms          the norms on what attention and FFN write
    norm_offset           what is added to the parameter of a norm for its gain
    query_key_norm        there are norms on queries and keys: on every head, or on all heads at once
    hidden_multiple_of_heads  the config insists that the width is a multiple of the number of heads
    experts               every FFN is several, with a router that sends each token to some of them
    """
    attention_norm, ffn_norm = input_norms
    query_key_spaces = {"head": (Space.HEAD,) * 2, "heads": (Space.HEADS, Space.KV), None: ()}[query_key_norm]
    return ArchSpec(
        model_type=model_type,
        model_class=model_class,
        embeddings=(Weight("model.embed_tokens", in_=Space.VOCAB, out=Space.RESIDUAL, layout="embedding"),),
        stacks=(
            Stack(
                layers="model.layers",
                weights=(
                    Weight("self_attn.q_proj", in_=Space.RESIDUAL, out=Space.HEADS, input_norm=attention_norm),
                    Weight("self_attn.k_proj", in_=Space.RESIDUAL, out=Space.KV, input_norm=attention_norm),
                    Weight("self_attn.v_proj", in_=Space.RESIDUAL, out=Space.KV, input_norm=attention_norm),
                    Weight("self_attn.o_proj", in_=Space.HEADS, out=Space.RESIDUAL),
                    *(_experts(ffn_norm) if experts else _ffn(ffn_norm)),
                ),
                norms=(
                    *(Norm(path, norm_kind) for path in input_norms if path is not None),
                    *(Norm(path, norm_kind, on_output=True) for path in output_norms),
                    *(
                        Norm(path, norm_kind, over=space)
                        for path, space in zip(("self_attn.q_norm", "self_attn.k_norm"), query_key_spaces, strict=False)
                    ),
                ),
                ffn_scale=Scale(f"{output_norms[1]}.weight", norm_offset) if output_norms else None,
            ),
        ),
        final_norm=Norm("model.norm", norm_kind),
        head=Weight("lm_head", in_=Space.RESIDUAL, out=Space.VOCAB, input_norm="model.norm"),
        stock_keys={Space.RESIDUAL: "hidden_size", Space.FFN: "intermediate_size"},
        head_keys=("num_attention_heads", "num_key_value_heads"),
        stock_multiple="num_attention_heads" if hidden_multiple_of_heads else None,
        kernel_multiple=EXPERT_MULTIPLE if experts else 1,
        writes_head_dim=True,
        refusals=EXPERT_REFUSALS if experts else {},
    )


def _ffn(norm: str | None) -> tuple[Weight, ...]:
    return (
        Weight("mlp.gate_proj", in_=Space.RESIDUAL, out=Space.FFN, input_norm=norm),
        Weight("mlp.up_proj", in_=Space.RESIDUAL, out=Space.FFN, input_norm=norm),
        Weight("mlp.down_proj", in_=Space.FFN, out=Space.RESIDUAL),
    )


def _experts(norm: str | None) -> tuple[Weight, ...]:
    return (
        Weight("mlp.gate", in_=Space.RESIDUAL, out=Space.EXPERTS, input_norm=norm),
        Weight("mlp.experts", in_=Space.RESIDUAL, out=Space.FFN, input_norm=norm, repeats=2, name="gate_up_proj"),
        Weight("mlp.experts", in_=Space.FFN, out=Space.RESIDUAL, name="down_proj"),
    )
