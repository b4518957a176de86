"""The shape that image encoders share: patches, a token for the whole image, pre-norm layers with plain FFNs."""

from dataclasses import dataclass

from neuromeld.archs.blocks import attention, plain_ffn
from neuromeld.archs.spec import ArchSpec, Norm, Scale, Space, Stack

PATCHES = (
    "cls_token",
    "mask_token",
    "distillation_token",
    "position_embeddings",
    "patch_embeddings.projection.weight",
    "patch_embeddings.projection.bias",
)
CLASSIFIER = ("classifier.weight", "classifier.bias")
POOLER = ("pooler.dense.weight", "pooler.dense.bias")


@dataclass(frozen=True)
class Names:
    """Paths in an encoder; of all but `layers` and `final`, in a layer or in the module `embeddings`.

    attention   of queries, keys and values
    norms       those that attention and FFN read the stream through
    scales      factors for each channel of what attention and FFN write, where there are any
    embeddings  parameters that make the stream of an image
    first       a norm between them and the layers, where there is one
    """

    layers: str = "layers"
    attention: str = "attention.{}_proj"
    attention_output: str = "attention.o_proj"
    norms: tuple[str, str] = ("layernorm_before", "layernorm_after")
    scales: tuple[str, ...] = ()
    embeddings: tuple[str, ...] = PATCHES
    first: str | None = None
    final: str = "layernorm"


def image_encoder(
    model_type: str,
    model_class: str,
    *,
    base: str = "",
    head: tuple[str, ...] = (),
    names: Names = Names(),
) -> ArchSpec:
    """Return the spec of an encoder of this shape.

    base   path of the encoder in a model with a head, with a dot behind it
    head   parameters behind the stream; a classifier has a loss
    """
    attention_norm, ffn_norm = names.norms
    return ArchSpec(
        model_type=model_type,
        model_class=model_class,
        inputs="images",
        has_loss=head == CLASSIFIER,
        stacks=(
            Stack(
                layers=base + names.layers,
                weights=(
                    *attention(names.attention, names.attention_output, attention_norm, Space.HEADS),
                    *plain_ffn("mlp.fc1", "mlp.fc2", ffn_norm),
                ),
                norms=(Norm(attention_norm, "layer"), Norm(ffn_norm, "layer")),
                untouched_parameters=names.scales,
                ffn_scale=Scale(names.scales[1]) if names.scales else None,
            ),
        ),
        embedding_norm=Norm(base + names.first, "layer") if names.first else None,
        final_norm=Norm(base + names.final, "layer"),
        untouched_parameters=(*(f"{base}embeddings.{path}" for path in names.embeddings), *head),
        stock_keys={Space.FFN: "intermediate_size"},
        refusals={Space.RESIDUAL: "patches, positions and the class token enter it in ways that are not described yet"},
        head_keys=("num_attention_heads", "num_attention_heads"),
        writes_head_dim=True,
    )
