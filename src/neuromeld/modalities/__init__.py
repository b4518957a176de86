"""Every kind of input: what models are calibrated, trained and measured on.  To add one, write it and list it here."""

from typing import Any

from transformers import PretrainedConfig

from neuromeld.archs.classes import inputs_of_config
from neuromeld.archs.spec import Inputs
from neuromeld.checkpoint.source import ModelSource
from neuromeld.errors import UnsupportedModelError
from neuromeld.modalities.encoded import Encoded
from neuromeld.modalities.examples import Examples, TrainingSet
from neuromeld.modalities.images import Images
from neuromeld.modalities.modality import Modality
from neuromeld.modalities.own_text import OwnText
from neuromeld.modalities.pairs import Pairs
from neuromeld.modalities.speech import Speech
from neuromeld.modalities.tokens import Tokens, batches_of
from neuromeld.model.native.modeling import PREFIX

_LISTED: tuple[Modality, ...] = (
    Tokens(),
    Encoded(masked=True),
    Encoded(masked=False),
    Images(),
    Pairs(),
    Speech(),
)

MODALITIES: dict[Inputs, Modality] = {modality.name: modality for modality in _LISTED}


def reader_for(config: PretrainedConfig) -> Modality:
    """Return the reader of a model's inputs."""
    return MODALITIES[inputs_of_config(config)]


def with_own_text(reader: Modality, source: ModelSource, device: str = "cpu", *, progress: bool = False) -> Modality:
    """Return the reader, which of a language model can then have text that the model at `source` writes itself."""
    return Tokens(OwnText(source, device, progress)) if reader.name == "tokens" else reader


def inputs_of(config: PretrainedConfig) -> Inputs:
    """Return the kind of input that a model reads, in its native form, too; text where nothing is known of it."""
    stock: Any = next(base for base in type(config).__mro__ if not base.__name__.startswith(PREFIX))
    if stock is not type(config):
        names = [name.removeprefix(PREFIX) for name in config.architectures or []]
        config = stock.from_dict(config.to_dict() | {"model_type": stock.model_type, "architectures": names})
    try:
        return inputs_of_config(config)
    except UnsupportedModelError:
        return "tokens"


__all__ = [
    "MODALITIES",
    "Examples",
    "Images",
    "Modality",
    "TrainingSet",
    "batches_of",
    "inputs_of",
    "reader_for",
    "with_own_text",
]
