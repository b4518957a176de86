"""A free size against the budget that it must exhaust."""

import pytest

from contract.families import build
from neuromeld import Budget, parse_recipe
from neuromeld.benchmark.fit import FREE_SIZES, fitted, with_size
from neuromeld.errors import NeuromeldError, UserInputError
from neuromeld.planning.plan import architecture_of

CALIBRATION = {"tokens": 1536, "seqlen": 16}


@pytest.mark.parametrize("free", FREE_SIZES)
@pytest.mark.parametrize("keep", [0.95, 0.8])
def test_the_largest_result_within_the_budget_is_taken(free, keep):
    model = build("llama-tied")
    budget = Budget(keep=keep)
    shares = {}
    for value in FREE_SIZES[free].values(model, architecture_of(model)):
        recipe = parse_recipe(with_size({"calibration": CALIBRATION}, free, value))
        try:
            shares[recipe] = budget.share(model, recipe)
        except NeuromeldError:
            continue
    fitting = {recipe: share for recipe, share in shares.items() if share <= 1}
    if not fitting:
        with pytest.raises(UserInputError, match=f"no {free} meets a budget of {keep}"):
            fitted(model, {"calibration": CALIBRATION}, free, budget)
        return
    found = fitted(model, {"calibration": CALIBRATION}, free, budget)
    assert shares[found] == max(fitting.values())


def test_values_ascend_in_what_is_left():
    model = build("llama-tied")
    for free in FREE_SIZES:
        values = FREE_SIZES[free].values(model, architecture_of(model))
        some = values[:: 1 + len(values) // 50]
        recipes = [parse_recipe(with_size({"calibration": CALIBRATION}, free, value)) for value in some]
        shares = [Budget(keep=0.5).share(model, r) for r in recipes if accepted(model, r)]
        assert shares == sorted(shares)
        assert len(set(shares)) > 1 or len(values) == 1


def accepted(model, recipe) -> bool:
    try:
        Budget(keep=0.5).share(model, recipe)
    except NeuromeldError:
        return False
    return True


def test_other_options_of_the_stage_stay():
    assert with_size({"ffn": {"selector": "random"}}, "ffn.size", 8) == {"ffn": {"selector": "random", "size": 8}}
    assert with_size({"ffn": None, "width": {"basis": "layer"}}, "ffn.size", 8)["ffn"] == {"size": 8}
