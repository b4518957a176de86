"""DINOv2: ViT whose sublayers write through a scale per channel (LayerScale); an image classifier, or the encoder."""

from neuromeld.archs.spec import ArchSpec, Requirement, Scale, Space
from neuromeld.archs.vision import CLASSIFIER, image_encoder


def _dinov2(model_class: str, base: str, head: tuple[str, ...]) -> ArchSpec:
    return image_encoder(
        model_type="dinov2",
        model_class=model_class,
        base=base,
        layers="encoder.layer",
        norms=("norm1", "norm2"),
        head=head,
        has_loss=bool(head),
        layer_untouched_parameters=("layer_scale1.lambda1", "layer_scale2.lambda1"),
        ffn_scale=Scale("layer_scale2.lambda1"),
        ffn_key=None,
        native_only={Space.FFN: "DINOv2's config states the size of the FFNs as a whole multiple of the width"},
        requires=(Requirement("use_swiglu_ffn", False, "the gated FFN of the giant model is not described"),),
    )


SPEC = _dinov2("Dinov2ForImageClassification", "dinov2.", CLASSIFIER)
MORE = (_dinov2("Dinov2Model", "", ()),)
