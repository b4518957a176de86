"""Which class of transformers a config means."""

from typing import Any

import transformers
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PretrainedConfig

from neuromeld.archs import spec_for
from neuromeld.errors import UnsupportedModelError


def stock_class(config: PretrainedConfig) -> Any:
    """Return the class of a described architecture; of other models, which can be evaluated, that of causal language
    models.

    Raises `UnsupportedModelError` for anything else.
    """
    try:
        return getattr(transformers, spec_for(config.model_type, config.architectures or []).model_class)
    except UnsupportedModelError:
        if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
            return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        raise
