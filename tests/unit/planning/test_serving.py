"""The memory of a served model against the tensors that a model and its cache really hold."""

import pytest
import torch

from contract.families import build
from neuromeld import Budget, compress_model, make_plan, parse_recipe
from neuromeld.errors import UserInputError
from neuromeld.planning.plan import architecture_of
from neuromeld.planning.serving import Serving
from unit.planning.test_planner import batches, settings

HEADS = {"heads": {"num_kv_heads": 1}}


@pytest.mark.parametrize(("family", "heads"), [("llama-tied", HEADS), ("gpt2", {}), ("qwen3", HEADS)])
@pytest.mark.parametrize("dtype", [None, "float16"])
def test_bytes_are_those_of_the_weights_and_of_the_cache(family, heads, dtype):
    model, recipe = build(family), parse_recipe(settings() | {"ffn": {"size": 16}} | heads)
    serving = Serving(batch=2, context=7, dtype=dtype)
    share = Budget(memory=10_000, serving=serving).share(model, recipe)
    plan = make_plan(model, recipe)
    small = compress_model(model, plan, batches()).model
    if dtype is not None:
        small = small.to(getattr(torch, dtype))
    cache = small(input_ids=torch.ones(2, 7, dtype=torch.long), use_cache=True).past_key_values
    held = sum(parameter.nbytes for parameter in small.parameters())
    held += sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert share * 10_000 == pytest.approx(held)


def test_a_model_that_fits_as_it_comes_is_left_alone():
    model = build("llama-tied")
    with pytest.raises(UserInputError, match=r"is served in \d+\.\d MB, which --memory allows"):
        Budget(memory=10**9).check_needed(model, architecture_of(model))
    Budget(memory=1000).check_needed(model, architecture_of(model))
    Budget(keep=0.5).check_needed(model, architecture_of(model))


@pytest.mark.parametrize(
    ("given", "message"),
    [({"dtype": "int8"}, "unknown served dtype"), ({"batch": 0}, "at least 1"), ({"context": -1}, "at least 1")],
)
def test_a_way_of_serving_that_there_is_not(given, message):
    with pytest.raises(UserInputError, match=message):
        Serving(**given)


def test_memory_is_a_budget_of_its_own():
    with pytest.raises(UserInputError, match="give one budget"):
        Budget(memory=10, keep=0.5)
