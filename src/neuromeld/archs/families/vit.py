"""ViT: LayerNorm, biases, GELU FFN; an image classifier, or the encoder alone."""

from neuromeld.archs.vision import CLASSIFIER, POOLER, image_encoder

SPEC = image_encoder(model_type="vit", model_class="ViTForImageClassification", base="vit.", head=CLASSIFIER)
MORE = (image_encoder(model_type="vit", model_class="ViTModel", head=POOLER, has_loss=False),)
