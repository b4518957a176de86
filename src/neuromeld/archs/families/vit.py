"""ViT: LayerNorm, biases, GELU FFN; an image classifier, or the encoder alone."""

from neuromeld.archs.vision import CLASSIFIER, POOLER, image_encoder

SPEC = image_encoder("vit", "ViTForImageClassification", base="vit.", head=CLASSIFIER)
MORE = (image_encoder("vit", "ViTModel", head=POOLER),)
