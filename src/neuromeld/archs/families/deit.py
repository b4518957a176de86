"""DeiT: ViT with a second token, which a teacher taught; an image classifier, or the encoder alone."""

from neuromeld.archs.vision import CLASSIFIER, POOLER, image_encoder

SPEC = image_encoder("deit", "DeiTForImageClassification", base="deit.", head=CLASSIFIER)
MORE = (image_encoder("deit", "DeiTModel", head=POOLER),)
