"""The fuzzer, for the length of `make test`: the same cases every time, in parts that processes can share."""

import pytest

from fuzz.classes import IN_TESTS
from fuzz.driver import run_case
from fuzz.originals import Originals

SEED = 0
PART = 10
"""Cases of one test."""


@pytest.fixture(scope="session")
def originals(tmp_path_factory):
    return Originals(tmp_path_factory.mktemp("fuzz") / "originals")


@pytest.mark.parametrize(
    ("kind", "first"), [(kind, first) for kind, count in IN_TESTS.items() for first in range(0, count, PART)]
)
def test_hostile_input_ends_in_one_message_or_in_a_result(kind, first, originals, tmp_path):
    numbers = range(first, min(first + PART, IN_TESTS[kind]))
    outcomes = [run_case(kind, SEED, number, originals, tmp_path / str(number)) for number in numbers]
    assert not [outcome.told() for outcome in outcomes if outcome.problems]
