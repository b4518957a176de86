"""What the data of each family says of it: the lists that the laws run over.

A family that is added needs no entry here: its `ArchSpec` says what it can be given.
"""

from collections.abc import Iterable

import pytest

from contract.families import FAMILIES
from neuromeld.archs import ArchSpec, spec_for
from neuromeld.archs.spec import Space


def _spec(family: str) -> ArchSpec:
    config = FAMILIES[family]()
    return spec_for(config.model_type, config.architectures or ())


SPECS = {family: _spec(family) for family in FAMILIES}

WIDE = [family for family, spec in SPECS.items() if spec.refusal(Space.RESIDUAL) is None]
NO_WIDTH = [family for family in FAMILIES if family not in WIDE]
STOCK = [family for family in WIDE if Space.RESIDUAL not in SPECS[family].native_only]
"""Families whose narrow stream a stock config can state."""
HEADS = [family for family, spec in SPECS.items() if spec.refusal(Space.HEADS) is None]
EXPERTS = [family for family, spec in SPECS.items() if any(w.stacked for s in spec.stacks for w in s.weights)]
ROUNDED = [family for family, spec in SPECS.items() if spec.kernel_multiple > 1]
NO_SHARING = [family for family, spec in SPECS.items() if "share_ffns" in spec.refusals]
NO_LOSS = [family for family, spec in SPECS.items() if not spec.has_loss]
ENCODER_DECODERS = [family for family, spec in SPECS.items() if len(spec.stacks) > 1]
IMAGES = [family for family, spec in SPECS.items() if spec.inputs == "images"]

SHAPES = ["llama-tied", "gemma2", "gpt2", "falcon", "t5", "vit-encoder", "mixtral", "bert"]
"""A family of each shape: gates, norms on outputs, transposed weights, parallel and fused ones, two stacks, no loss,
experts, norms behind the sum.  What is done to units by one method rather than another differs by shape alone.
"""


def each_with(families: Iterable[str], methods: Iterable[str], every: Iterable[str]) -> list[object]:
    """Parameters of a law of families and methods: all methods for `SHAPES`, and the methods `every` for each family.

    The rest of the product is marked, and left to `make families`.
    """
    every = [*every]
    rest = pytest.mark.product
    return [
        pytest.param(family, method, marks=() if family in SHAPES or method in every else rest, id=f"{family}-{method}")
        for family in families
        for method in methods
    ]


def possible(family: str, given: dict[str, dict[str, object]]) -> dict[str, dict[str, object]]:
    """Stages without what a family refuses, with the layers where no loss chooses them, and a size for each layer."""
    spec = SPECS[family]
    refused = {*spec.refusals} | ({"width"} if family in NO_WIDTH else set())
    refused |= {"experts"} if spec.mixture is None else set()
    chosen = {stage: options for stage, options in given.items() if stage not in refused or stage == "heads"}
    if not spec.has_loss:
        layers = {"layers": [1, 2]}
        named = {"drop_layers": layers, "remove_ffns": layers, "share_ffns": {"window": [0, 1]}}
        chosen |= {stage: options for stage, options in named.items() if "count" in chosen.get(stage, {})}
    sizes = chosen.get("ffn", {}).get("size")
    if isinstance(sizes, list):
        config = FAMILIES[family]()
        layers_of_all = sum(getattr(config, stack.count_key) for stack in spec.stacks)
        chosen["ffn"] = chosen["ffn"] | {"size": (3 * sizes)[:layers_of_all]}
    return chosen
