"""The image part of CLIP: ViT with a norm in front of its layers, and no head, or a projection to what texts share."""

from dataclasses import replace

from neuromeld.archs.spec import ArchSpec, Space
from neuromeld.archs.vision import Names, image_encoder

NAMES = Names(
    layers="encoder.layers",
    attention="self_attn.{}_proj",
    attention_output="self_attn.out_proj",
    norms=("layer_norm1", "layer_norm2"),
    embeddings=("class_embedding", "position_embedding.weight", "patch_embedding.weight"),
    first="pre_layrnorm",
    final="post_layernorm",
)


def _encoder(model_class: str, base: str = "", head: tuple[str, ...] = ()) -> ArchSpec:
    return replace(
        image_encoder("clip_vision_model", model_class, base=base, head=head, names=NAMES),
        native_only={Space.HEADS: "CLIP's config has one width for the residual stream and for attention"},
        writes_head_dim=False,
    )


SPEC = _encoder("CLIPVisionModel")

MORE = (_encoder("CLIPVisionModelWithProjection", "vision_model.", ("visual_projection.weight",)),)
