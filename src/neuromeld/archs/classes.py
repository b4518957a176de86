"""Which class of transformers a config means."""

from typing import Any

import transformers
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, PretrainedConfig

from neuromeld.archs import spec_for
from neuromeld.errors import UnsupportedModelError


def stock_class(config: PretrainedConfig) -> Any:
    """The class of a described architecture; for other causal language models, which can be evaluated, the auto class.

    Raises `UnsupportedModelError` for anything else.
    """
    try:
        return getattr(transformers, spec_for(config.model_type, config.architectures or []).model_class)
    except UnsupportedModelError:
        if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
            return AutoModelForCausalLM
        raise
