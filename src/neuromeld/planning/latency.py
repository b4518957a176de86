"""The time that a request takes: of a few sizes of a model it is measured, and of all others told from these."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from transformers import PreTrainedModel

from neuromeld.archs.resolve import Architecture
from neuromeld.archs.sizes import Sizes, sizes_of
from neuromeld.archs.spec import Space
from neuromeld.errors import NeuromeldError
from neuromeld.evaluation import measure_speed
from neuromeld.planning.plan import make_plan
from neuromeld.planning.recipe import Recipe

PROMPT_TOKENS, NEW_TOKENS = 512, 32
"""A request, shorter where the model has not so many positions."""

MARGIN = 0.02
"""Candidates aim at so much less time than is allowed, since no two measurements agree."""

FFN_SHARES, STREAM_SHARES, TOKEN_SHARES, RANK_SHARES = (0.75, 0.5, 0.25), (0.9, 0.6), (0.5,), (0.8, 0.4)
"""Of a size, those that are timed; of groups of heads and of layers it is half."""

Timer = Callable[[PreTrainedModel, PreTrainedModel], float]
"""`(model, original) -> time of a request over the original's`."""

Points = Sequence[tuple[float, float]]
"""Values of a size, ascending, and the share of the original's time that each saves."""


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


@dataclass(frozen=True)
class TimeTable:
    """Tell what sizes save of the time of a request, from those that were timed.

    before  sizes of the original
    points  by the field of `Sizes`: of FFNs and heads what all layers save together; those that save nothing, too
    layer   what a dropped layer saves
    factor  of all that is saved, where a whole candidate was timed and saved another share than was told

    Sizes in between lie on a line, and so do those beyond the last.  Layers add up; a narrower stream saves its share
    of what they leave.
    """

    before: Sizes
    points: Mapping[str, Points]
    layer: float
    factor: float = 1.0

    def __str__(self) -> str:
        found = [f"{size} {value:g}: {1 - saved:.3f}" for size, pairs in self.points.items() for value, saved in pairs]
        return ", ".join([*found, f"a layer less: {1 - self.layer:.3f}"])

    def ratio(self, after: Sizes) -> float:
        """Return the time of a request at these sizes over the original's."""
        saved = (self.before.num_layers - after.num_layers) * self.layer
        for neurons, groups in zip(after.ffn, after.num_kv_heads, strict=True):
            in_layer = self._saved("ffn", neurons) * bool(neurons) + self._saved("num_kv_heads", groups)
            saved += in_layer / self.before.num_layers
        saved += self._saved("vocab", after.vocab) + self._saved("embedding_rank", after.embedding_rank or math.inf)
        left = (1 - saved) * (1 - self._saved("hidden", after.hidden))
        return 1 - self.factor * (1 - left)

    def held_to(self, after: Sizes, measured: float) -> "TimeTable":
        """Return the table of which these sizes take the time that was measured; itself where they saved none."""
        told = 1 - self.ratio(after)
        return replace(self, factor=self.factor * (1 - measured) / told) if measured < 1 and told > 0 else self

    def _saved(self, size: str, value: float) -> float:
        points = self.points.get(size, ())
        if not points or value >= points[-1][0]:
            return 0.0
        low, high = next((pair for pair in pairwise(points) if value <= pair[1][0]), (points[-2], points[-1]))
        return low[1] + (value - low[0]) * (high[1] - low[1]) / (high[0] - low[0])


def measured_times(
    model: PreTrainedModel,
    arch: Architecture,
    recipe_of: Callable[..., Recipe],
    tokens: tuple[str, int] | None,
    timed: Callable[[str, Recipe], float],
) -> TimeTable:
    """Time some sizes of a model, each alone, and return what they say of all.

    recipe_of  makes a recipe of stages
    tokens     the text that tokens may be chosen by, and how many there may be at half of them
    timed      time of a request at the sizes of a recipe, which has a name, over the original's
    """
    before = sizes_of(arch, model.config)
    points: dict[str, list[tuple[float, float]]] = {}
    layer = 0.0
    for size, stages in _shapes(arch, before, tokens):
        try:
            recipe = recipe_of(**stages)
            after = make_plan(model, recipe, arch=arch).after
        except NeuromeldError:
            continue  # what the model refuses is no candidate's size, either
        left = after.num_layers if size == "layers" else _value(after, size)
        saved = 1 - timed(f"{size} {left:g}", recipe)
        if size == "layers":
            layer = max(0.0, saved / (before.num_layers - after.num_layers))
        else:
            points.setdefault(size, []).append((left, saved))
    whole = {"embedding_rank": float(before.hidden)}
    return TimeTable(
        before, {size: _falling(found, whole.get(size, _value(before, size))) for size, found in points.items()}, layer
    )


def _shapes(arch: Architecture, before: Sizes, tokens: tuple[str, int] | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the sizes that are timed, each as the stage that makes it of no text in particular."""
    plain = {"selector": "random", "compensate": "none"}
    for share in FFN_SHARES:
        yield "ffn", {"ffn": {"size": max(2, int(arch.widths[Space.FFN] * share)), **plain}}
    if before.num_kv_heads[0] > 1:
        yield "num_kv_heads", {"heads": {"num_kv_heads": before.num_kv_heads[0] // 2, **plain}}
    if len(before.depths) == 1 and before.num_layers > 1:
        gone = list(range(before.num_layers // 2))
        yield "layers", {"drop_layers": {"layers": gone, "compensate": "none"}}
    for share in STREAM_SHARES:
        yield "hidden", {"width": {"hidden_ratio": share, "selector": "random"}}
    if tokens is not None:
        yield "vocab", {"vocabulary": {"text": tokens[0], "size": tokens[1]}}
    for share in RANK_SHARES:
        yield "embedding_rank", {"embedding": {"rank": share}}


def _value(sizes: Sizes, size: str) -> float:
    value = getattr(sizes, size)
    return float(max(value)) if isinstance(value, tuple) else float(value)


def _falling(found: Points, whole: float) -> Points:
    """Return the points and that of the whole size, ascending; a smaller size never saves less than a larger one."""
    falling: list[tuple[float, float]] = [(whole, 0.0)]
    for value, saved in sorted(found, reverse=True):
        falling.append((value, max(saved, falling[-1][1])))
    return falling[::-1]
