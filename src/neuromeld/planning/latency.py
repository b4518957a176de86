"""The time that a request takes, measured on what was really built, and the size that would meet a budget of time."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace

from transformers import PreTrainedModel

from neuromeld.evaluation import measure_speed
from neuromeld.planning.budget import Budget
from neuromeld.planning.candidates import Candidate, SearchSpace, candidates

PROMPT_TOKENS, NEW_TOKENS = 512, 32
"""A request, shorter where the model has not so many positions."""

MARGIN = 0.02
"""Finalists aim at so much less time than is allowed, since no two measurements agree."""

Timer = Callable[[PreTrainedModel, PreTrainedModel], float]
"""`(model, original) -> time of a request over the original's`."""


def time_ratio(model: PreTrainedModel, original: PreTrainedModel) -> float:
    """Median seconds for prompt and greedy continuation, batch 1, over the original's; measured in alternation."""
    positions = getattr(original.config, "max_position_embeddings", None) or math.inf
    prompt = int(min(PROMPT_TOKENS, positions // 2))
    new = int(min(NEW_TOKENS, positions // 4))
    speeds = measure_speed(
        {"original": original, "candidate": model}, prompt_tokens=prompt, new_tokens=new, repeats=5, seed=0
    )
    seconds = {name: prompt / speed.prefill.median + new / speed.decode.median for name, speed in speeds.items()}
    return seconds["candidate"] / seconds["original"]


def alias_copy(model: PreTrainedModel) -> PreTrainedModel:
    """Copy the modules of a model around the very same parameters and buffers."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, memo=shared)


def sized_for_time(space: SearchSpace, candidate: Candidate, latency: float) -> Candidate | None:
    """Return the candidate of the same kind that should just meet the budget of time; None where there is none.

    latency   what `candidate`, which has as many operations as the budget would allow, was measured at

    Time saved is taken as proportional to operations saved, from the one measurement.
    """
    assert space.budget.keep is not None
    if latency >= 1:
        return None
    saved = (1 - space.budget.share(space.model, candidate.recipe) * space.budget.keep) / (1 - latency)
    flops = 1 - (1 - space.budget.keep + MARGIN) * saved
    if flops <= 0:
        return None
    others = candidates(replace(space, budget=Budget(flops=min(flops, 1.0))))
    return next((other for other in others if other.name == candidate.name), None)
