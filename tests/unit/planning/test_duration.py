"""The time of a job is its operations over what a machine does; what that is, is measured once."""

import json
from dataclasses import replace

import pytest

from neuromeld.evaluation.throughput import Throughput, throughput_of
from neuromeld.planning.duration import REACHED, Moves, Work, time_of
from neuromeld.stages.base import Operations

MACHINE = Throughput(device="x", float32=10.0, bfloat16=40.0, float64=5.0, sums=2.0, memory=50.0, bus=20.0, disk=100.0)
MOVES = Moves(weights=100, read=300, written=200, walks=2, looks=3)
WORK = Work(Operations(tokens=6, sums=8, factors=15), tokens=3, flops=20, dtypes=("float32",), moves=MOVES)


def test_each_part_takes_its_operations_over_what_is_done_in_a_second():
    found = time_of(WORK, MACHINE)
    assert (found.passes, found.sums, found.factors, found.disk) == (12 / REACHED, 4 / REACHED, 3 / REACHED, 5)
    assert (found.moving, found.looking) == (0, 6)
    assert found.seconds == pytest.approx(11 + 19 / REACHED)
    assert WORK.passes == 2


def test_processes_share_tokens_and_a_disk_and_each_factorises():
    found = time_of(WORK, MACHINE, ranks=4)
    assert (found.passes, found.sums, found.factors, found.disk) == (3 / REACHED, 1 / REACHED, 3 / REACHED, 5)


def test_weights_that_lie_elsewhere_come_in_each_walk():
    streamed = replace(WORK, moves=replace(MOVES, streamed=True))
    assert (time_of(streamed, MACHINE).moving, time_of(streamed, MACHINE).looking) == (10, 6 + 15)
    both = replace(WORK, moves=replace(MOVES, streamed=True, memory_mapped=True))
    assert time_of(both, MACHINE).moving == pytest.approx(12)


def test_passes_that_may_be_cast_take_the_faster_format():
    assert time_of(replace(WORK, dtypes=("float32", "bfloat16")), MACHINE).passes == 3 / REACHED


def test_a_machine_is_measured_once_and_again_where_the_cache_is_broken(tmp_path, monkeypatch):
    monkeypatch.setenv("NEUROMELD_CACHE", str(tmp_path))
    first = throughput_of("cpu")
    assert throughput_of("cpu") == first
    (path,) = (tmp_path / "throughput").iterdir()
    path.write_text(json.dumps({"device": "x"}))
    assert throughput_of("cpu").device == first.device
    assert json.loads(path.read_text())["disk"] > 0


@pytest.mark.parametrize("part", ["float32", "bfloat16", "float64", "sums", "memory", "bus", "disk"])
def test_what_is_measured_is_what_a_machine_can_do(part):
    assert 1e6 < getattr(throughput_of("cpu"), part) < 1e16
