"""DeiT: ViT with a second token, which a teacher taught; an image classifier, or the encoder alone."""

from neuromeld.archs.vision import CLASSIFIER, POOLER, image_encoder

SPEC = image_encoder(model_type="deit", model_class="DeiTForImageClassification", base="deit.", head=CLASSIFIER)
MORE = (image_encoder(model_type="deit", model_class="DeiTModel", head=POOLER, has_loss=False),)
