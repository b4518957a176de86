"""DINOv2: ViT whose sublayers write through a scale per channel (LayerScale); an image classifier, or the encoder."""

from dataclasses import replace

from neuromeld.archs.spec import ArchSpec, Requirement, Space
from neuromeld.archs.vision import CLASSIFIER, Names, image_encoder

NAMES = Names(
    layers="encoder.layer",
    norms=("norm1", "norm2"),
    scales=("layer_scale1.lambda1", "layer_scale2.lambda1"),
)


def _dinov2(model_class: str, base: str, head: tuple[str, ...]) -> ArchSpec:
    return replace(
        image_encoder("dinov2", model_class, base=base, head=head, names=NAMES),
        stock_keys={},
        native_only={Space.FFN: "DINOv2's config states the size of the FFNs as a whole multiple of the width"},
        requires=(Requirement("use_swiglu_ffn", False, "the gated FFN of the giant model is not described"),),
    )


SPEC = _dinov2("Dinov2ForImageClassification", "dinov2.", CLASSIFIER)
MORE = (_dinov2("Dinov2Model", "", ()),)
