"""The image part of CLIP: ViT with a norm in front of its layers, and no head."""

from neuromeld.archs.spec import Space
from neuromeld.archs.vision import image_encoder

SPEC = image_encoder(
    model_type="clip_vision_model",
    model_class="CLIPVisionModel",
    layers="encoder.layers",
    attention="self_attn.{}_proj",
    attention_output="self_attn.out_proj",
    norms=("layer_norm1", "layer_norm2"),
    embeddings=("class_embedding", "position_embedding.weight", "patch_embedding.weight"),
    embedding_norm="pre_layrnorm",
    final_norm="post_layernorm",
    has_loss=False,
    native_only={Space.HEADS: "CLIP's config has one width for the residual stream and for attention"},
)
