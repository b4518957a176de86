"""Live models that are not plain: one clear error each, the same at every entry."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from neuromeld import compress_model, make_plan, parse_recipe
from neuromeld.errors import UserInputError
from unit.checkpoint.tiny import build_stock
from unit.stages.models import batches

RECIPE = parse_recipe({"ffn": {"size": 8}, "calibration": {"tokens": 512, "seqlen": 16}})


def compiled_in_place():
    model = build_stock("llama")
    model.compile()
    return model


def compiled_layer():
    model = build_stock("llama")
    model.model.layers[1].mlp.compile()
    return model


def adapters_inside():
    model = build_stock("llama")
    model.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]))
    return model


WRAPPED = {
    "peft": (lambda: get_peft_model(build_stock("llama"), LoraConfig(r=2)), "merge_and_unload"),
    "adapters inside": (adapters_inside, "merge_and_unload"),
    "torch.compile": (lambda: torch.compile(build_stock("llama")), "was compiled"),
    "compiled in place": (compiled_in_place, "was compiled"),
    "a compiled layer": (compiled_layer, "was compiled"),
    "parallel": (lambda: torch.nn.DataParallel(build_stock("llama")), r"its \.module"),
    "no module": (lambda: "a/b", "is not a model of transformers"),
}


@pytest.mark.parametrize("what", WRAPPED)
def test_a_model_that_is_wrapped_is_named(what):
    make, message = WRAPPED[what]
    plan = make_plan(build_stock("llama"), RECIPE)
    for use in (lambda model: make_plan(model, RECIPE), lambda model: compress_model(model, plan, batches())):
        with pytest.raises(UserInputError, match=message):
            use(make())


def test_a_plan_of_another_model_is_refused_before_any_work():
    plan = make_plan(build_stock("llama", tie_word_embeddings=False), RECIPE)
    with pytest.raises(UserInputError, match="the plan was made for a model of"):
        compress_model(build_stock("llama"), plan, batches())
