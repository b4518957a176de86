"""The unit of what a job costs."""

import time

from contract.families import build, tokens
from neuromeld.evaluation.plain_pass import TICK, plain_pass_seconds


def test_a_pass_takes_time_where_the_clock_stands_still(monkeypatch):
    monkeypatch.setattr(time, "process_time", lambda: 1.0)
    batches = [{"input_ids": ids} for ids in tokens(8).split(4)]
    assert plain_pass_seconds(build("llama-tied"), batches) == 2 * TICK
