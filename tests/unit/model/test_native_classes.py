"""Native classes of models that transformers has no class of."""

from dataclasses import replace

import torch
from transformers import LlamaForCausalLM

from contract.families import build
from neuromeld import compress_model, make_plan, parse_recipe
from neuromeld.archs import ARCHITECTURES, BY_CLASS
from unit.stages.models import batches


class Own(LlamaForCausalLM):
    """Somebody's own class."""


def test_a_class_of_ones_own_becomes_native(monkeypatch):
    monkeypatch.setitem(BY_CLASS, "Own", replace(ARCHITECTURES["llama"], model_class="Own"))
    model = build("llama")
    model.__class__ = Own
    sharing = {"window": [0, 1], "align": "none", "combine": "average", "compensate": "none"}
    plan = make_plan(model, parse_recipe({"share_ffns": sharing, "calibration": {"tokens": 64, "seqlen": 16}}))
    compress_model(model, plan, batches())
    assert plan.format == "native"
    assert isinstance(model, Own)
    assert torch.equal(model.model.layers[0].mlp.up_proj.weight, model.model.layers[1].mlp.up_proj.weight)
