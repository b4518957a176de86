"""Calibration and validation data for every kind of model.  To add a kind, write its reader and list it here."""

from transformers import PretrainedConfig

from neuromeld.archs import spec_for
from neuromeld.archs.spec import Inputs
from neuromeld.inputs.examples import Examples, Reader
from neuromeld.inputs.tokens import Tokens, batches_of

READERS: dict[Inputs, Reader] = {"tokens": Tokens()}


def reader_for(config: PretrainedConfig) -> Reader:
    """How the inputs of a model are read."""
    return READERS[spec_for(config.model_type, config.architectures or []).inputs]


__all__ = ["READERS", "Examples", "Reader", "batches_of", "reader_for"]
