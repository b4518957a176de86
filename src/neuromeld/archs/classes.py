"""Which class of transformers a config means, and what its models read."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import transformers
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_QUESTION_ANSWERING_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
    PretrainedConfig,
)

from neuromeld.archs import spec_for
from neuromeld.archs.spec import Inputs
from neuromeld.errors import UnsupportedModelError


@dataclass(frozen=True)
class Kind:
    """Classes of transformers that need no description: what they read, and whether the data has what they predict."""

    mapping: Any
    inputs: Inputs
    has_loss: bool = True


PREDICTING = (
    Kind(MODEL_FOR_CAUSAL_LM_MAPPING, "tokens"),
    Kind(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, "tokens"),
    Kind(MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING, "pairs"),
    Kind(MODEL_FOR_MASKED_LM_MAPPING, "masked"),
    Kind(MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, "images"),
)
"""Of images or sound with text the text alone, so that what is proved is proved of the language model."""

HEADS = (
    Kind(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, "sentences", has_loss=False),
    Kind(MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING, "sentences", has_loss=False),
    Kind(MODEL_FOR_QUESTION_ANSWERING_MAPPING, "sentences", has_loss=False),
)
"""Heads whose labels plain text does not have: classifiers, rewards and spans."""

BARE = Kind(MODEL_MAPPING, "sentences", has_loss=False)
"""Encoders of text, or of images, without a head."""


def stock_class(config: PretrainedConfig) -> Any:
    """Return the class that the config names, if it is of a kind above; else that of a described architecture, or the
    first of those kinds.

    Raises `UnsupportedModelError` for anything else.
    """
    names = config.architectures or []
    known = [found for found, _ in _kinds(type(config))]
    named = [found for found in known if found.__name__ in names]
    try:
        described = getattr(transformers, spec_for(config.model_type, names).model_class)
    except UnsupportedModelError:
        if not known:
            raise
        return (named or known)[0]
    headed = [found for found in named if found not in _classes(BARE, type(config))]
    return described if described.__name__ in names or not headed else headed[0]


def kind_of(config: PretrainedConfig, model_class: type) -> Kind:
    """Return the kind of a class whose config this is.  Raises `UnsupportedModelError` for a class of none."""
    for found, kind in _kinds(type(config)):
        if issubclass(model_class, found):
            if kind.inputs == "pairs" and not config.is_encoder_decoder:
                return replace(kind, inputs="tokens")
            return kind if found.main_input_name == "input_ids" or kind is not BARE else replace(kind, inputs="images")
    raise UnsupportedModelError(
        f"{model_class.__name__} is neither described nor a language model, a classifier or an encoder that "
        "transformers finds by its config"
    )


def inputs_of_config(config: PretrainedConfig) -> Inputs:
    """Return what models of a config read.

    Raises `UnsupportedModelError` for what is neither described nor of a kind above.
    """
    found = stock_class(config)
    try:
        described = spec_for(config.model_type, [found.__name__])
    except UnsupportedModelError:
        return kind_of(config, found).inputs
    return described.inputs if described.model_class == found.__name__ else kind_of(config, found).inputs


def classes_of_type(model_type: str) -> list[Any]:
    """Return the classes of the kinds above of a model type; none of a type that transformers does not know."""
    if model_type not in CONFIG_MAPPING:
        return []
    return [found for found, _ in _kinds(CONFIG_MAPPING[model_type])]


def _kinds(config_class: type) -> Iterator[tuple[Any, Kind]]:
    """Yield the classes of a config class with their kinds, the likeliest first."""
    for kind in (*PREDICTING, *HEADS, BARE):
        for found in _classes(kind, config_class):
            if kind is not BARE or found.main_input_name in ("input_ids", "pixel_values"):
                yield found, kind


def _classes(kind: Kind, config_class: type) -> tuple[Any, ...]:
    if config_class not in kind.mapping:
        return ()
    found = kind.mapping[config_class]
    return found if isinstance(found, tuple) else (found,)
