"""Numbers that no model, no data and no generator has are refused where settings are made."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuromeld.benchmark.grid import Grid
from neuromeld.errors import UserInputError
from neuromeld.planning import Budget
from neuromeld.planning.recipe import parse_recipe
from neuromeld.recovery import Recovery
from neuromeld.settings import MOST, validate

WHOLE = st.integers() | st.sampled_from([0, 1, 2, MOST, MOST + 1, 2**63, 2**64, 10**4000])
REAL = st.floats() | WHOLE
RECIPES = {
    "drop_layers.count": WHOLE,
    "drop_layers.layers": st.lists(WHOLE, max_size=3),
    "share_ffns.count": WHOLE,
    "share_ffns.window": st.tuples(WHOLE, WHOLE),
    "ffn.size": WHOLE | st.lists(WHOLE, max_size=3),
    "ffn.ratio": REAL,
    "heads.num_kv_heads": WHOLE | st.lists(WHOLE, max_size=3),
    "width.hidden_size": WHOLE,
    "width.hidden_ratio": REAL,
    "calibration.seed": WHOLE,
    "calibration.tokens": WHOLE,
}


def numbers(value):
    return [n for part in value for n in numbers(part)] if isinstance(value, list | tuple) else [value]


@pytest.mark.parametrize("key", RECIPES)
@given(data=st.data())
def test_a_recipe_holds_reasonable_numbers_or_is_refused(key, data):
    stage, option = key.split(".")
    value = data.draw(RECIPES[key])
    stages = {"ffn": {"ratio": 0.5}} | {stage: {option: value}}
    if stage == "share_ffns":
        stages = {stage: {option: value}}
    try:
        recipe = parse_recipe(stages)
    except UserInputError:
        return
    found = numbers(getattr(getattr(recipe, stage), option))
    assert all(math.isfinite(n) and 0 <= n <= MOST for n in found)
    assert parse_recipe(recipe.model_dump()) == recipe


@given(
    key=st.sampled_from(["steps", "batch_size", "seqlen", "warmup", "lora_rank", "seed", "learning_rate", "clip"]),
    value=REAL,
)
def test_a_recovery_holds_reasonable_numbers_or_is_refused(key, value):
    try:
        recovery = validate(Recovery, {"steps": 1, key: value})
    except UserInputError:
        return
    assert math.isfinite(getattr(recovery, key))
    assert getattr(recovery, key) >= 0
    assert isinstance(getattr(recovery, key), float) or getattr(recovery, key) <= MOST
    assert recovery.seed < 2**32


@given(keep=st.floats(), seed=WHOLE, tokens=WHOLE)
def test_a_grid_holds_reasonable_numbers_or_is_refused(keep, seed, tokens):
    rows = {"a": {"recipe": {"ffn": {"compensate": "none"}}, "fit": "ffn.size"}}
    given = {"models": ["m"], "rows": rows, "keep": [keep], "seeds": [seed], "evaluation_tokens": tokens}
    try:
        grid = validate(Grid, given, "grid")
    except UserInputError:
        return
    assert 0 < grid.keep[0] <= 1
    assert 0 <= grid.seeds[0] < 2**32
    assert grid.seqlen <= grid.evaluation_tokens <= MOST


@pytest.mark.parametrize("params", [0, -1])
def test_a_budget_leaves_at_least_one_parameter(params):
    with pytest.raises(UserInputError, match="at least 1"):
        Budget(params=params)
