"""Model families as data: to add one, write its file in `families`."""

from collections.abc import Iterable

from neuromeld.archs.families import OTHER_HEADS, SPECS
from neuromeld.archs.resolve import Architecture, resolve
from neuromeld.archs.spec import ArchSpec, Norm, Stack, Weight
from neuromeld.errors import UnsupportedModelError
from neuromeld.registry import Registry, unknown_name

ARCHITECTURES: Registry[ArchSpec] = Registry("architecture", {spec.model_type: spec for spec in SPECS})
"""By model type, as the class that the type means here where a checkpoint does not name one."""

BY_CLASS: dict[str, ArchSpec] = {spec.model_class: spec for spec in OTHER_HEADS}
"""The same families under other heads, by model class."""

UNSUPPORTED = {
    "clip": "text beside images; its image part alone is the architecture clip_vision_model",
}
"""Architectures that were looked at and are refused, and why."""


def spec_for(model_type: str, model_classes: Iterable[str] = ()) -> ArchSpec:
    """Return the spec of a model type: that of the first of `model_classes` with one of its own, else the type's.

    Raises `UnsupportedModelError` for a type that is not described.
    """
    if model_type.startswith("neuromeld-"):
        raise UnsupportedModelError(
            "this checkpoint is already narrow in neuromeld's native format; compress the original model instead"
        )
    if model_type in UNSUPPORTED:
        raise UnsupportedModelError(f"models of type {model_type} are not supported: {UNSUPPORTED[model_type]}")
    headed = next((BY_CLASS[name] for name in model_classes if name in BY_CLASS), None)
    if headed is None and model_type not in ARCHITECTURES:
        raise UnsupportedModelError(unknown_name("architecture", model_type, list(ARCHITECTURES)))
    return headed or ARCHITECTURES[model_type]


__all__ = [
    "ARCHITECTURES",
    "BY_CLASS",
    "UNSUPPORTED",
    "ArchSpec",
    "Architecture",
    "Norm",
    "Stack",
    "Weight",
    "resolve",
    "spec_for",
]
