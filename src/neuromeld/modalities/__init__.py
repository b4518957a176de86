"""Calibration and validation data for every kind of model.  To add a kind, write its reader and list it here."""

from transformers import PretrainedConfig

from neuromeld.archs import spec_for
from neuromeld.archs.spec import Inputs
from neuromeld.errors import UnsupportedModelError
from neuromeld.modalities.encoded import Encoded
from neuromeld.modalities.examples import Examples, Reader, TrainingSet
from neuromeld.modalities.images import Images
from neuromeld.modalities.pairs import Pairs
from neuromeld.modalities.speech import Speech
from neuromeld.modalities.tokens import Tokens, batches_of
from neuromeld.model.native.modeling import PREFIX, native_model_type

READERS: dict[Inputs, Reader] = {
    "tokens": Tokens(),
    "masked": Encoded(masked=True),
    "sentences": Encoded(masked=False),
    "images": Images(),
    "pairs": Pairs(),
    "speech": Speech(),
}


def reader_for(config: PretrainedConfig) -> Reader:
    """How the inputs of a model are read."""
    return READERS[spec_for(config.model_type, config.architectures or []).inputs]


def inputs_of(config: PretrainedConfig) -> Inputs:
    """What a model reads, in its native form, too; text where nothing is known of it."""
    names = [name.removeprefix(PREFIX) for name in config.architectures or []]
    try:
        return spec_for(config.model_type.removeprefix(native_model_type("")), names).inputs
    except UnsupportedModelError:
        return "tokens"


__all__ = ["READERS", "Examples", "Images", "Reader", "TrainingSet", "batches_of", "inputs_of", "reader_for"]
