"""The shape that Llama, Mistral, the Qwens and many more share: RMSNorms, q/k/v/o, gate/up/down."""

from dataclasses import dataclass

from neuromeld.archs.blocks import attention, embedding, output_head, plain_ffn
from neuromeld.archs.spec import ArchSpec, Mixture, Norm, NormKind, Scale, Space, Stack, Weight

EXPERT_MULTIPLE = 8
"""`torch.nn.functional.grouped_mm`, which transformers runs experts with, wants rows of a multiple of 16 bytes."""

EXPERT_REFUSALS = {
    "share_ffns": "an expert has no counterpart in the next layer",
    "remove_ffns": "the routers would be left over",
}


@dataclass(frozen=True)
class Norms:
    """The norms of one layer, by their paths.

    inputs     those that attention and FFN read the stream through
    outputs    those on what attention and FFN write
    query_key  the spaces that norms on queries and on keys run over
    offset     what is added to the parameter of a norm for its gain
    """

    inputs: tuple[str | None, str | None] = ("input_layernorm", "post_attention_layernorm")
    outputs: tuple[str, ...] = ()
    query_key: tuple[Space, ...] = ()
    kind: NormKind = "rms"
    offset: float = 0.0

    def of_layer(self) -> tuple[Norm, ...]:
        """Return them in order of execution."""
        query_key = zip(("self_attn.q_norm", "self_attn.k_norm"), self.query_key, strict=False)
        return (
            *(Norm(path, self.kind) for path in self.inputs if path is not None),
            *(Norm(path, self.kind, on_output=True) for path in self.outputs),
            *(Norm(path, self.kind, over=space) for path, space in query_key),
        )


EVERY_HEAD = (Space.HEAD, Space.HEAD)
"""A norm for the queries of each head, and one for its keys."""

OLMO_NORMS = Norms(
    inputs=(None, None),
    outputs=("post_attention_layernorm", "post_feedforward_layernorm"),
    query_key=(Space.HEADS, Space.KV),
)

GEMMA_NORMS = Norms(
    inputs=("input_layernorm", "pre_feedforward_layernorm"),
    outputs=("post_attention_layernorm", "post_feedforward_layernorm"),
    offset=1.0,
)


def gated_decoder(
    model_type: str,
    model_class: str,
    *,
    norms: Norms = Norms(),
    hidden_multiple_of_heads: bool = False,
    experts_key: str | None = None,
    factor_key: str | None = None,
) -> ArchSpec:
    """Return the spec of a decoder of this shape.

    hidden_multiple_of_heads  the config insists that the width is a multiple of the number of heads
    experts_key               the config key of the number of experts, where every FFN is several, with a router that
                              sends each token to some of them
    factor_key                the config key of a number that what sublayers write is multiplied by
    """
    attention_norm, ffn_norm = norms.inputs
    experts = experts_key is not None
    return ArchSpec(
        model_type=model_type,
        model_class=model_class,
        embeddings=(embedding("model.embed_tokens"),),
        stacks=(
            Stack(
                layers="model.layers",
                weights=(
                    *attention("self_attn.{}_proj", "self_attn.o_proj", attention_norm),
                    *(_experts(ffn_norm) if experts else _ffn(ffn_norm)),
                ),
                norms=norms.of_layer(),
                ffn_scale=Scale(f"{norms.outputs[1]}.weight", norms.offset) if norms.outputs else None,
                factor_key=factor_key,
                mixture=_mixture(experts_key) if experts_key is not None else None,
            ),
        ),
        final_norm=Norm("model.norm", norms.kind),
        head=output_head("lm_head", "model.norm"),
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
        *plain_ffn("mlp.up_proj", "mlp.down_proj", norm),
    )


def _experts(norm: str | None) -> tuple[Weight, ...]:
    return (
        Weight("mlp.gate", in_=Space.RESIDUAL, out=Space.EXPERTS, input_norm=norm),
        Weight("mlp.experts", in_=Space.RESIDUAL, out=Space.FFN, input_norm=norm, repeats=2, name="gate_up_proj"),
        Weight("mlp.experts", in_=Space.FFN, out=Space.RESIDUAL, name="down_proj"),
    )


def _mixture(key: str) -> Mixture:
    modules = ("mlp.experts", "mlp.gate")
    return Mixture(
        experts="mlp.experts",
        tensors=(("mlp.experts.gate_up_proj", 0), ("mlp.experts.down_proj", 0), ("mlp.gate.weight", 0)),
        counts=tuple((module, "num_experts") for module in modules),
        counts_of_model=(("", "num_experts"),),
        key=key,
    )
