"""Which class of transformers a config means, and what its models read."""

from typing import Any

import transformers
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    PretrainedConfig,
)

from neuromeld.archs import spec_for
from neuromeld.archs.spec import Inputs
from neuromeld.errors import UnsupportedModelError

KINDS: tuple[tuple[Any, Inputs], ...] = (
    (MODEL_FOR_CAUSAL_LM_MAPPING, "tokens"),
    (MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, "tokens"),
    (MODEL_FOR_MASKED_LM_MAPPING, "masked"),
    (MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, "images"),
)
"""The classes of transformers that need no description, by config class, and what they read.

Of images with text the text alone, so that what is proved is proved of the language model.
"""


def stock_class(config: PretrainedConfig) -> Any:
    """Return the class of a described architecture; of any other, the one that the config names, if it is of `KINDS`.

    Raises `UnsupportedModelError` for anything else.
    """
    try:
        return getattr(transformers, spec_for(config.model_type, config.architectures or []).model_class)
    except UnsupportedModelError:
        known = [found for mapping, _ in KINDS for found in _classes(mapping, type(config))]
        named = [found for found in known if found.__name__ in (config.architectures or [])]
        if not known:
            raise
        return (named or known)[0]


def inputs_of_class(config: PretrainedConfig, model_class: type) -> Inputs:
    """Return what a class of `KINDS` reads, whose config this is.  Raises `UnsupportedModelError` for another class."""
    for mapping, inputs in KINDS:
        if any(issubclass(model_class, found) for found in _classes(mapping, type(config))):
            return inputs
    raise UnsupportedModelError(
        f"{model_class.__name__} is neither described nor a language model or an image classifier that transformers "
        "finds by its config"
    )


def inputs_of_config(config: PretrainedConfig) -> Inputs:
    """Return what models of a config read.

    Raises `UnsupportedModelError` for what is neither described nor of `KINDS`.
    """
    try:
        return spec_for(config.model_type, config.architectures or []).inputs
    except UnsupportedModelError:
        return inputs_of_class(config, stock_class(config))


def classes_of_type(model_type: str) -> list[Any]:
    """Return the classes of `KINDS` of a model type; none of a type that transformers does not know."""
    if model_type not in CONFIG_MAPPING:
        return []
    return [found for mapping, _ in KINDS for found in _classes(mapping, CONFIG_MAPPING[model_type])]


def _classes(mapping: Any, config_class: type) -> tuple[Any, ...]:
    if config_class not in mapping:
        return ()
    found = mapping[config_class]
    return found if isinstance(found, tuple) else (found,)
