"""Compare an unknown model with the known architectures, as a start for describing it."""

import importlib
import inspect
import re
from dataclasses import dataclass

from transformers import PreTrainedModel

from neuromeld.archs import ARCHITECTURES, BY_CLASS
from neuromeld.archs.spec import ArchSpec


@dataclass(frozen=True)
class Probe:
    """Parameter names hold `*` for the index of the layer.

    nearest    the known architecture that describes most of the model
    described  parameters that it describes, by name alone
    unclaimed  parameters that it does not
    missing    module paths that it wants and the model does not have
    draft      a data file to start from
    """

    nearest: str
    described: tuple[str, ...]
    unclaimed: tuple[str, ...]
    missing: tuple[str, ...]
    draft: str


def probe(model: PreTrainedModel) -> Probe:
    """Compare the names of a model's parameters with every known architecture; shapes and config are not looked at."""
    names = list(dict.fromkeys(_without_numbers(name) for name, _ in model.named_parameters()))
    modules = {name.rpartition(".")[0] for name in names}

    def likeness(spec: ArchSpec) -> tuple[int, bool]:
        paths = _paths(spec)
        return len(modules & paths) - len(modules ^ paths), spec.model_type == model.config.model_type

    nearest = max([*ARCHITECTURES.values(), *BY_CLASS.values()], key=likeness)
    paths = _paths(nearest)
    tied = {nearest.head.path} if nearest.head and getattr(model.config, "tie_word_embeddings", False) else set()
    unclaimed = tuple(name for name in names if name.rpartition(".")[0] not in paths)
    return Probe(
        nearest=nearest.model_type,
        described=tuple(name for name in names if name not in unclaimed),
        unclaimed=unclaimed,
        missing=tuple(sorted(paths - modules - tied)),
        draft=_draft(model, nearest, unclaimed),
    )


def _paths(spec: ArchSpec) -> set[str]:
    """Return the module paths of everything that a spec describes."""
    in_layers = {
        f"{stack.layers}.*.{path}"
        for stack in spec.stacks
        for path in (
            *(weight.path for weight in stack.weights),
            *(norm.path for norm in stack.norms),
            *(extra.rpartition(".")[0] for extra in stack.untouched_parameters),
            *([f"{stack.first_only.owner}.{stack.first_only.embedding}"] if stack.first_only else []),
        )
    }
    weights = {weight.path for weight in (*spec.embeddings, spec.head) if weight is not None}
    norms = {norm.path for norm in (spec.embedding_norm, spec.final_norm) if norm is not None}
    untouched_parameters = {extra.rpartition(".")[0] for extra in spec.untouched_parameters}
    return {_without_numbers(path) for path in in_layers | weights | norms | untouched_parameters}


def _without_numbers(path: str) -> str:
    return re.sub(r"\.\d+\.", ".*.", path)


def _draft(model: PreTrainedModel, nearest: ArchSpec, unclaimed: tuple[str, ...]) -> str:
    """Return the data file of the nearest architecture, with the names of this one and what is left to describe."""
    source = inspect.getsource(importlib.import_module(f"neuromeld.archs.families.{nearest.model_type}"))
    body = source.partition('"""\n')[2]
    for old, new in (
        (nearest.model_type, model.config.model_type),
        (nearest.model_class, type(model).__name__),
    ):
        body = body.replace(f'"{old}"', f'"{new}"')
    todo = "".join(f"# to describe: {name}\n" for name in unclaimed)
    return f'"""{type(model).__name__}: drafted from {nearest.model_type}, to be checked."""\n{body}{todo}'
