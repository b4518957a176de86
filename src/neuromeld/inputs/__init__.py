"""Calibration and validation data for every kind of model.  To add a kind, write its reader and list it here."""

from transformers import PretrainedConfig

from neuromeld.archs import spec_for
from neuromeld.archs.spec import Inputs
from neuromeld.checkpoint.modeling import PREFIX, native_model_type
from neuromeld.errors import UnsupportedModelError
from neuromeld.inputs.encoded import Encoded
from neuromeld.inputs.examples import Examples, Pool, Reader
from neuromeld.inputs.images import Images
from neuromeld.inputs.pairs import Pairs
from neuromeld.inputs.speech import Speech
from neuromeld.inputs.tokens import Tokens, batches_of

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


__all__ = ["READERS", "Examples", "Images", "Pool", "Reader", "batches_of", "inputs_of", "reader_for"]
