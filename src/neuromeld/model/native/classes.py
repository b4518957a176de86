"""Which class of transformers a checkpoint is loaded with."""

from typing import Any

import transformers
from transformers import PretrainedConfig, PreTrainedModel

from neuromeld.archs.classes import stock_class
from neuromeld.errors import UnsupportedModelError
from neuromeld.model.native.modeling import PREFIX, native_model

AUTO_CLASSES = (
    "AutoModelForCausalLM",
    "AutoModelForImageTextToText",
    "AutoModelForSeq2SeqLM",
    "AutoModelForSpeechSeq2Seq",
    "AutoModelForImageClassification",
    "AutoModelForMaskedLM",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoModelForQuestionAnswering",
    "AutoModel",
    "AutoModelForPreTraining",
)


def auto_class(model: type[PreTrainedModel]) -> Any:
    """Return the auto class that finds a stock model class, or the native form of one, by its config."""
    stock = next(base for base in model.__mro__ if not base.__name__.startswith(PREFIX))
    for name in AUTO_CLASSES:
        found = getattr(transformers, name)._model_mapping.get(stock.config_class, ())  # type: ignore[attr-defined]
        if stock in (found if isinstance(found, tuple) else (found,)):
            return getattr(transformers, name)
    raise UnsupportedModelError(f"no auto class of transformers finds {stock.__name__}")


def has_auto_class(model: type[PreTrainedModel]) -> bool:
    """Tell whether an auto class finds a model class; a native checkpoint cannot be loaded without."""
    try:
        auto_class(model)
    except UnsupportedModelError:
        return False
    return True


def model_class(config: PretrainedConfig) -> Any:
    """Return the class that `config` means: that of the native form where it is one, else the `stock_class`."""
    if hasattr(config, "neuromeld"):
        (name,) = config.architectures or [""]
        return native_model(getattr(transformers, name.removeprefix(PREFIX)))
    return stock_class(config)
