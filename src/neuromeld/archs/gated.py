"""The shape that Llama, Mistral, the Qwens and many more share: RMSNorms, q/k/v/o, gate/up/down."""

from typing import Literal

from neuromeld.archs.spec import FFN, RESIDUAL, ArchSpec, Norm, NormKind, Stack, Weight


def gated_decoder(
    *,
    model_type: str,
    model_class: str,
    reads: tuple[str | None, str | None] = ("input_layernorm", "post_attention_layernorm"),
    output_norms: tuple[str, ...] = (),
    norm_kind: NormKind = "rms",
    query_key_norm: Literal["head", "heads"] | None = None,
    width_of_whole_heads: bool = False,
) -> ArchSpec:
    """The spec of a decoder of this shape.

    reads                 the norms that attention and FFN read the stream through
    output_norms          the norms on what attention and FFN write
    query_key_norm        there are norms on queries and keys: on every head, or on all heads at once
    width_of_whole_heads  the config insists that the width is a multiple of the number of heads
    """
    attention_norm, ffn_norm = reads
    query_key_spaces = {"head": ("head", "head"), "heads": ("heads", "kv"), None: ()}[query_key_norm]
    return ArchSpec(
        model_type=model_type,
        model_class=model_class,
        embeddings=(Weight("model.embed_tokens", in_="vocab", out=RESIDUAL, layout="embedding"),),
        stacks=(
            Stack(
                layers="model.layers",
                weights=(
                    Weight("self_attn.q_proj", in_=RESIDUAL, out="heads", reads=attention_norm),
                    Weight("self_attn.k_proj", in_=RESIDUAL, out="kv", reads=attention_norm),
                    Weight("self_attn.v_proj", in_=RESIDUAL, out="kv", reads=attention_norm),
                    Weight("self_attn.o_proj", in_="heads", out=RESIDUAL),
                    Weight("mlp.gate_proj", in_=RESIDUAL, out="ffn", reads=ffn_norm),
                    Weight("mlp.up_proj", in_=RESIDUAL, out="ffn", reads=ffn_norm),
                    Weight("mlp.down_proj", in_="ffn", out=RESIDUAL),
                ),
                norms=(
                    *(Norm(path, norm_kind) for path in reads if path is not None),
                    *(Norm(path, norm_kind, on_output=True) for path in output_norms),
                    *(
                        Norm(path, norm_kind, over=space)
                        for path, space in zip(("self_attn.q_norm", "self_attn.k_norm"), query_key_spaces, strict=False)
                    ),
                ),
            ),
        ),
        final_norm=Norm("model.norm", norm_kind),
        head=Weight("lm_head", in_=RESIDUAL, out="vocab", reads="model.norm"),
        stock_keys={RESIDUAL: "hidden_size", FFN: "intermediate_size"},
        head_keys=("num_attention_heads", "num_key_value_heads"),
        stock_multiple="num_attention_heads" if width_of_whole_heads else None,
        pins_head_dim=True,
    )
