"""Which axes of which parameters a config key states: change the key, build the model again, and compare shapes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

STEP = 16
"""Units that a size is made larger by to see which axes follow."""

UNSTATED = 208
"""What a size that a config leaves open is set to: the length of no other axis of a small model."""

OF_BACKBONES = ("out_features", "out_indices", "stage_names")
"""Names of layers, which follow from their number."""

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Axis:
    """One axis of a parameter, and how many of its entries there are for each unit of a size."""

    parameter: str
    index: int
    repeats: int


def built(model_class: Any, config: PretrainedConfig, device: str = "meta") -> PreTrainedModel | None:
    """Return the model of a config, in eval mode; None where there is none."""
    try:
        with torch.device(device):
            model: PreTrainedModel = model_class._from_config(config, dtype=torch.float32)
    except Exception:  # whatever a constructor makes of values that do not fit together
        return None
    model.eval()
    return model


def embedding_of(model: PreTrainedModel) -> nn.Module | None:
    """Return what a model embeds its inputs with, where it says."""
    try:
        return model.get_input_embeddings()
    except NotImplementedError:
        return None


def shapes_of(model: PreTrainedModel) -> Shapes:
    """Return the shape of every parameter, each once."""
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def with_values(config: PretrainedConfig, changes: Mapping[str, Any]) -> PretrainedConfig | None:
    """Return a config as it is read with other values of some keys, in which dots lead into its parts, and a number at
    the end into a list; None where it is refused.
    """
    stated = {key: value for key, value in config.to_dict().items() if key not in OF_BACKBONES}
    for key, value in changes.items():
        *parts, last = key.split(".")
        part = stated
        for name in parts[:-1]:
            part = part[name]
        if parts and last.isdigit():
            part[parts[-1]] = [value if i == int(last) else entry for i, entry in enumerate(part[parts[-1]])]
        else:
            (part[parts[-1]] if parts else part)[last] = value
    try:
        return type(config).from_dict(stated)
    except Exception:  # validators of configs raise what they like
        return None


def is_config(key: str, value: object) -> bool:
    """Tell whether the value of a key is a config itself."""
    return isinstance(value, Mapping) and (key.endswith("_config") or "model_type" in value)


def stated_keys(stated: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every key of a config with its value, dots leading into its parts."""
    for key, value in stated.items():
        if is_config(key, value):
            yield from stated_keys(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def axes_by_key(model_class: Any, config: PretrainedConfig, before: Shapes) -> Iterator[tuple[str, list[Axis]]]:
    """Yield the keys that state the length of axes and nothing else, with these."""
    for key, value in stated_keys(config.to_dict()):
        sized = isinstance(value, int) and not isinstance(value, bool) and value >= STEP
        if key.endswith("_id") or not (sized or value is None):
            continue
        new = value + STEP if sized else UNSTATED
        other = with_values(config, {key: new})
        model = built(model_class, other) if other is not None else None
        axes = _changed(before, shapes_of(model), new, STEP if sized else 0) if model is not None else None
        if axes:
            yield key, axes


def _changed(before: Shapes, after: Shapes, new: int, step: int) -> list[Axis] | None:
    """Return the axes that are longer by multiples of `step`, or, where that is 0, that are multiples of `new` now;
    None where anything else differs.
    """
    if before.keys() != after.keys():
        return None
    axes = []
    for name, old in before.items():
        now = after[name]
        if len(old) != len(now):
            return None
        changed = [i for i in range(len(old)) if old[i] != now[i]]
        if len(changed) > 1:
            return None
        for i in changed:
            repeats, rest = divmod(now[i] - old[i], step) if step else divmod(now[i], new)
            if rest:
                return None
            axes.append(Axis(name, i, repeats))
    return axes
