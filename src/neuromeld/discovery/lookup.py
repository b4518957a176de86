"""Find the description of a model that no family describes: discovered once for a class and a structure, and kept."""

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from neuromeld.archs.classes import kind_of
from neuromeld.archs.resolve import Architecture, resolve
from neuromeld.archs.sizes import ffn_entries
from neuromeld.discovery.assemble import Proved, ProvedStack, spec_of
from neuromeld.discovery.axes import built
from neuromeld.discovery.groups import Group, groups_of, staged_groups_of
from neuromeld.discovery.mixtures import prove_mixture
from neuromeld.discovery.proof import DECODED, Inputs, Unproved, outputs_of, prove
from neuromeld.discovery.small import VOCABULARY, depth_of, small_config
from neuromeld.errors import UnsupportedModelError
from neuromeld.runtime.cache import cache_folder
from neuromeld.runtime.workspace import write_text
from neuromeld.version import versions

SHOWN = 3
"""Kinds of FFN that an error tells what failed of."""

MOST_KINDS = 8
"""Kinds of FFN that are looked at, those with most parameters first."""

LARGEST = 20_000_000
"""Parameters of a model that counts as small."""


FAINT = 1e-2
"""Entries of a vector that are all smaller hide what they are a factor of."""


@dataclass(frozen=True)
class Discovery:
    """Hold what was found of a class of models of one structure.

    proved   kinds of FFN that hold, and of their layers, those with most parameters first
    refused  kinds of FFN that do not, and what failed of each
    unbuilt  why there is no small model to prove anything on
    """

    proved: tuple[Proved, ...] = ()
    refused: tuple[str, ...] = ()
    unbuilt: str | None = None


_DISCOVERIES = TypeAdapter(Discovery)

_DISCOVERED: dict[str, Discovery] = {}
"""What this process has looked for, by class and config."""


def discovered_architecture(model: PreTrainedModel) -> Architecture:
    """Return what was discovered and proved of a model, bound to it; the model may lie on the meta device.

    Raises `UnsupportedModelError` that says what failed where nothing is proved, or where this model is not as the
    small one that it was proved on.
    """
    found, bound, problems = discover(model), [], []
    for proved in found.proved:
        try:
            bound.append(resolve(model, spec_of(model, proved)))
        except UnsupportedModelError as error:
            problems.append(str(error))
    if bound:
        return max(bound, key=ffn_entries)
    reasons = [*problems, *found.refused, *([found.unbuilt] if found.unbuilt else [])]
    reasons[SHOWN:] = [f"and {len(reasons) - SHOWN} more"] if len(reasons) > SHOWN else []
    raise UnsupportedModelError(
        f"{type(model).__name__} is not described, and nothing was proved of it that would allow a stage: "
        + ("; ".join(reasons) or "no weights were found that write and read hidden units of their own")
    )


def discover(model: PreTrainedModel) -> Discovery:
    """Look for FFNs in a small model of the class and the structure of `model`, and prove what is found.

    Takes seconds the first time; what was found lies in the cache, by class, structure and versions.
    """
    asked = _digest(model, model.config)
    if asked not in _DISCOVERED:
        _DISCOVERED[asked] = _looked_for(model)
    return _DISCOVERED[asked]


def _looked_for(model: PreTrainedModel) -> Discovery:
    try:
        config = small_like(model)
    except Exception as error:  # validators of configs raise what they like
        return Discovery(
            unbuilt=f"no small config of its structure is valid: {str(error).strip().splitlines()[-1].strip()}"
        )
    return _kept(cache_folder() / "discoveries" / f"{_digest(model, config)}.json", type(model), config)


def _digest(model: PreTrainedModel, config: PretrainedConfig) -> str:
    """Return a name for a class of models with a config, under the versions of what is installed and of this code."""
    facts = {"class": type(model).__name__, "config": config.to_dict(), "versions": versions(), "code": _code()}
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


@cache
def _code() -> str:
    """Return the sha256 of what discovers: what was found by other code is looked for again."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def small_like(model: PreTrainedModel) -> PretrainedConfig:
    """Return a small config of the structure of a model, with one layer of every kind at least.

    Raises whatever the validators of the config raise where the small sizes do not go together.
    """
    wide = small_config(model.config)
    deep = built(type(model), wide)
    return small_config(model.config, depth_of(deep) if deep is not None else 4)


def _kept(path: Path, model_class: Any, config: PretrainedConfig) -> Discovery:
    found = _read(path)
    if found is None:
        found = _discover(model_class, config)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, _DISCOVERIES.dump_json(found).decode())
    return found


def _read(path: Path) -> Discovery | None:
    try:
        return _DISCOVERIES.validate_json(path.read_bytes())
    except (OSError, ValidationError):  # not there, or of another version of this program
        return None


def _discover(model_class: Any, config: PretrainedConfig) -> Discovery:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shapes = built(model_class, config)
        if shapes is None:
            return Discovery(unbuilt="transformers builds no small model of its structure")
        if (size := sum(p.numel() for p in shapes.parameters())) > LARGEST:
            return Discovery(unbuilt=f"its small model has {size:,} parameters")
        model = built(model_class, config, "cpu")
        assert model is not None
        randomise(model)
        try:
            inputs = example_inputs(config, model_class)
            outputs_of(model, inputs)
        except Exception as error:  # whatever a forward pass wants that is not given
            return Discovery(unbuilt=f"a small model of its structure does not run: {_first_line(error)}")
        proved, refused = _proved(model, groups_of(shapes), inputs)
        if not proved:
            proved, in_stages = _proved(model, staged_groups_of(shapes), inputs)
            refused = in_stages + refused
        return Discovery(tuple(_with_experts(model, inputs, proved)), tuple(refused))


def _with_experts(model: PreTrainedModel, inputs: dict[str, Tensor], proved: list[Proved]) -> list[Proved]:
    """Add to what is proved the experts that fewer of may be left, or why not."""
    try:
        found = prove_mixture(model, inputs)
    except Unproved as error:
        return [replace(one, refusals={**one.refusals, "experts": str(error)}) for one in proved]
    except Exception as error:  # whatever a model makes of what it is put through
        return [
            replace(one, refusals={**one.refusals, "experts": f"the proof broke off: {_first_line(error)}"})
            for one in proved
        ]
    if found is None:
        return proved

    def stacks(one: Proved) -> tuple[ProvedStack, ...]:
        return tuple(replace(s, mixture=found.mixture) if s.path == found.stack else s for s in one.stacks)

    return [replace(one, stacks=stacks(one)) for one in proved]


def _proved(model: PreTrainedModel, groups: list[Group], inputs: Inputs) -> tuple[list[Proved], list[str]]:
    """Return the kinds of FFN that hold, and what failed of the others."""
    proved, refused = [], []
    for group in groups[:MOST_KINDS]:
        try:
            proved.append(prove(model, group, inputs))
        except Unproved as error:
            refused.append(f"{group.names}: {error}")
        except Exception as error:  # whatever a model makes of what it is put through
            refused.append(f"{group.names}: the proof broke off: {_first_line(error)}")
    return proved, refused


def example_inputs(config: PretrainedConfig, model_class: type) -> dict[str, Tensor]:
    """Return a batch that a small model of a class is called with."""
    inputs = kind_of(config, model_class).inputs
    if inputs == "images":
        return {"pixel_values": torch.randn(2, getattr(config, "num_channels", 3), *_image_size(config))}
    tokens = getattr(config.get_text_config(decoder=True), "vocab_size", VOCABULARY)

    def ids(length: int) -> Tensor:
        rows = 1 if inputs == "sentences" else 2  # classifiers want padding to be defined where there are several
        return torch.randint(tokens // 8, tokens - tokens // 8, (rows, length))

    return {"input_ids": ids(16), DECODED: ids(12)} if inputs == "pairs" else {"input_ids": ids(16)}


def _image_size(config: PretrainedConfig) -> tuple[int, int]:
    parts = (config, getattr(config, "vision_config", None), getattr(config, "backbone_config", None))
    size = next((size for part in parts if (size := getattr(part, "image_size", None)) is not None), 32)
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def randomise(model: PreTrainedModel) -> None:
    """Give every matrix entries with which it is felt, and vectors a little noise; what is computed stays."""
    computed = model._keys_to_ignore_on_save or ()
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point() or name in computed:
            continue
        if parameter.dim() == 4 and len(parameter) > 1:  # of a convolution
            torch.nn.init.normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5)
        elif parameter.dim() > 1 and parameter.shape[-1] > 1:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
        elif (
            parameter.numel() and 0 < parameter.abs().max() < FAINT
        ):  # a factor of what a sublayer writes, before any training
            parameter.data = 0.5 + 0.1 * torch.randn_like(parameter)
        elif name.endswith("bias") or "norm" in name.lower():
            parameter.data += 0.1 * torch.randn_like(parameter)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
