"""What an effort is said to take is what the choice does, and it is said before it begins."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from neuromeld import Budget, Calibration
from neuromeld.planning import Planner, choose, effort
from neuromeld.planning.duration import JobTime
from neuromeld.planning.effort import EFFORTS
from operations import CountedOperations

TOKENS, SEQLEN = 1024, 32
SIZES = {"hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 4, "vocab_size": 97}


def batches(tokens):
    return [{"input_ids": torch.randint(0, 97, (2, SEQLEN))} for _ in range(tokens // SEQLEN // 2)]


def test_a_choice_takes_the_operations_that_were_told(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(choose, "FEW_TOKENS", 64)  # fewer than hidden neurons, which are regressed on
    model = LlamaForCausalLM(LlamaConfig(**SIZES, num_attention_heads=4, num_key_value_heads=2)).eval()
    told = []
    monkeypatch.setattr(effort, "time_of", lambda work, *_: told.append(work) or JobTime(*6 * [0]))
    monkeypatch.setattr(choose, "say", lambda _: told.append("said"))
    calibration = Calibration(tokens=TOKENS, seqlen=SEQLEN)
    planner = Planner(model, Budget(keep=0.8), calibration, "auto", batches(TOKENS), batches(TOKENS // 4))
    planner.progress, planner.effort = True, EFFORTS["quick"]
    with CountedOperations() as counted:
        planner.choose()
    work = told[0]
    assert counted.passes == pytest.approx(work.operations.tokens * work.flops, rel=0.2)
    assert told[1:] == ["said"]
