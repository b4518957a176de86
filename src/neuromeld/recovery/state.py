"""The state of a training, in the journal of its job: an interrupted one goes on from it with the same result."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from neuromeld.recovery.ranks import told_by_first
from neuromeld.recovery.sharding import Part
from neuromeld.runtime.journal import Journal

OF_ADAM = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW knows of a parameter: its updates and two moments."""

KEPT = ("weight", "best", *OF_ADAM)

BYTES_PER_PARAMETER = 2 * 4 * (1 + 2 + 1)
"""On disk: weights, moments and the best weights in float32, while the next state is written beside the last."""


@dataclass
class State:
    """How far a training is, beside weights and moments.

    curve, looks  as plain values
    best          the weights that were best on held-out data, by name
    """

    step: int
    curve: list[dict[str, float]]
    looks: list[dict[str, Any]]
    best: dict[str, Tensor]


def keep_state(journal: Journal, name: str, state: State, trained: Mapping[str, Part], optimizer: Optimizer) -> None:
    """Keep a state in the place of the last one, whole."""
    tensors: dict[str, Tensor] = {}
    for key, part in trained.items():
        known = optimizer.state.get(part.own, {})
        found = {"weight": part.own, "best": state.best[key]} | {moment: known[moment] for moment in OF_ADAM if known}
        tensors |= {f"{what} {key}": part.whole(value) for what, value in found.items()}
    tensors |= {f"random {device}": value for device, value in _random_states().items()}
    journal.keep(name, {"step": state.step, "curve": state.curve, "looks": state.looks}, tensors)


@torch.no_grad()
def recalled_state(journal: Journal, name: str, trained: Mapping[str, Part], optimizer: Optimizer) -> State | None:
    """Return the state that was kept, with weights, moments and generators set to it; None where there is none."""
    entry = told_by_first(partial(journal.recall, name))
    if entry is None:
        return None
    found = entry.tensors
    best: dict[str, Tensor] = {}
    for key, part in trained.items():
        device = part.own.device
        own = {what: part.part(found[f"{what} {key}"].to(device)) for what in KEPT if f"{what} {key}" in found}
        part.own.copy_(own["weight"])
        best[key] = own["best"]
        if OF_ADAM[0] in own:
            optimizer.state[part.own] = {moment: own[moment] for moment in OF_ADAM}
    torch.set_rng_state(found["random cpu"])
    if "random cuda" in found:
        torch.cuda.set_rng_state(found["random cuda"])
    return State(entry.facts["step"], entry.facts["curve"], entry.facts["looks"], best)


def _random_states() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else {})
