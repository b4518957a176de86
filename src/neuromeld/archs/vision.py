"""The shape that image encoders share: patches, a token for the whole image, pre-norm layers with plain FFNs."""

from neuromeld.archs.spec import ArchSpec, Norm, Requirement, Scale, Space, Stack, Weight

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


def image_encoder(
    *,
    model_type: str,
    model_class: str,
    base: str = "",
    layers: str = "layers",
    attention: str = "attention.{}_proj",
    attention_output: str = "attention.o_proj",
    norms: tuple[str, str] = ("layernorm_before", "layernorm_after"),
    embeddings: tuple[str, ...] = PATCHES,
    embedding_norm: str | None = None,
    final_norm: str = "layernorm",
    head: tuple[str, ...] = (),
    has_loss: bool = True,
    layer_untouched_parameters: tuple[str, ...] = (),
    ffn_scale: Scale | None = None,
    ffn_key: str | None = "intermediate_size",
    native_only: dict[Space, str] | None = None,
    requires: tuple[Requirement, ...] = (),
) -> ArchSpec:
    """Return the spec of an encoder of this shape.

    base             path of the encoder in a model with a head, with a dot behind it
    attention        path of the queries, keys and values in a layer
    norms            those that attention and FFN read the stream through
    embeddings       parameters in the module `embeddings` that make the stream of an image
    head             parameters behind the stream
    has_loss         the head is a classifier
    ffn_key          the config key of the FFNs' size, where there is one
    """
    attention_norm, ffn_norm = norms
    return ArchSpec(
        model_type=model_type,
        model_class=model_class,
        inputs="images",
        has_loss=has_loss,
        stacks=(
            Stack(
                layers=base + layers,
                weights=(
                    *(
                        Weight(attention.format(x), in_=Space.RESIDUAL, out=Space.HEADS, input_norm=attention_norm)
                        for x in "qkv"
                    ),
                    Weight(attention_output, in_=Space.HEADS, out=Space.RESIDUAL),
                    Weight("mlp.fc1", in_=Space.RESIDUAL, out=Space.FFN, input_norm=ffn_norm),
                    Weight("mlp.fc2", in_=Space.FFN, out=Space.RESIDUAL),
                ),
                norms=(Norm(attention_norm, "layer"), Norm(ffn_norm, "layer")),
                untouched_parameters=layer_untouched_parameters,
                ffn_scale=ffn_scale,
            ),
        ),
        embedding_norm=Norm(base + embedding_norm, "layer") if embedding_norm else None,
        final_norm=Norm(base + final_norm, "layer"),
        untouched_parameters=(*(f"{base}embeddings.{path}" for path in embeddings), *head),
        stock_keys={Space.FFN: ffn_key} if ffn_key else {},
        native_only=native_only or {},
        refusals={Space.RESIDUAL: "patches, positions and the class token enter it in ways that are not described yet"},
        head_keys=("num_attention_heads", "num_attention_heads"),
        writes_head_dim=Space.HEADS not in (native_only or {}),
        requires=requires,
    )
