"""The time of a job is its operations over what a machine does; what that is, is measured once."""

import json
from dataclasses import replace

import pytest

from neuromeld.evaluation.throughput import Throughput, throughput_of
from neuromeld.planning.duration import Work, time_of
from neuromeld.stages.base import Operations

MACHINE = Throughput(device="x", float32=10.0, bfloat16=40.0, float64=5.0, sums=2.0, disk=100.0)
WORK = Work(Operations(tokens=6, sums=8, factors=15), tokens=3, flops=20, dtypes=("float32",), read=300, written=200)


def test_each_part_takes_its_operations_over_what_is_done_in_a_second():
    found = time_of(WORK, MACHINE)
    assert (found.passes, found.sums, found.factors, found.disk) == (12, 4, 3, 5)
    assert found.seconds == 24
    assert WORK.passes == 2


def test_processes_share_tokens_and_a_disk_and_each_factorises():
    found = time_of(WORK, MACHINE, ranks=4)
    assert (found.passes, found.sums, found.factors, found.disk) == (3, 1, 3, 14)


def test_passes_that_may_be_cast_take_the_faster_format():
    assert time_of(replace(WORK, dtypes=("float32", "bfloat16")), MACHINE).passes == 3


def test_a_machine_is_measured_once_and_again_where_the_cache_is_broken(tmp_path, monkeypatch):
    monkeypatch.setenv("NEUROMELD_CACHE", str(tmp_path))
    first = throughput_of("cpu")
    assert throughput_of("cpu") == first
    (path,) = (tmp_path / "throughput").iterdir()
    path.write_text(json.dumps({"device": "x"}))
    assert throughput_of("cpu").device == first.device
    assert json.loads(path.read_text())["disk"] > 0


@pytest.mark.parametrize("part", ["float32", "bfloat16", "float64", "sums", "disk"])
def test_what_is_measured_is_what_a_machine_can_do(part):
    assert 1e6 < getattr(throughput_of("cpu"), part) < 1e16
