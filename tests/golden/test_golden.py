"""Plans, records and checkpoints of every stage on three families are what they were when they were frozen."""

import json
from pathlib import Path

import pytest

from golden.cases import FOLDER, differences, make_inputs, names, run

TOLERANCE = 1e-3
"""Products are rounded differently on other processors."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    make_inputs(folder)
    return folder


@pytest.mark.parametrize(("family", "case"), names())
def test_a_case_gives_what_was_frozen(inputs: Path, tmp_path: Path, family: str, case: str):
    expected = json.loads((FOLDER / f"{family}-{case}.json").read_text())
    given = json.loads(json.dumps(run(inputs, family, case, tmp_path / "out")))
    found = list(differences(expected, given, TOLERANCE))
    assert not found, "\n".join(found)
