"""A record that lacks something, or holds it as another type, makes a page or one message."""

import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuromeld.errors import CheckpointError
from neuromeld.report import checked_record, save_report
from report.records import LEAST, everything

VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just([]) | st.just({})


def places(value, path=()):
    """The paths of all that is in a record."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield (*path, key)
        yield from places(part, (*path, key))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_record_with_anything_else_in_any_place(data, tmp_path):
    record = copy.deepcopy(data.draw(st.sampled_from([everything(), LEAST])))
    path = data.draw(st.sampled_from(sorted(places(record), key=str)))
    holder = record
    for key in path[:-1]:
        holder = holder[key]
    if data.draw(st.booleans()):
        holder[path[-1]] = data.draw(VALUES)
    else:
        del holder[path[-1]]
    (tmp_path / "record.json").write_text(json.dumps(record))
    said = str(tmp_path)
    try:
        checked_record(tmp_path)
        save_report(tmp_path)
    except CheckpointError as error:
        said = str(error)
    assert str(tmp_path) in said


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 10_000, b'{"sour', b"9" * 5000])
def test_what_is_no_record_is_one_message(content, tmp_path):
    (tmp_path / "record.json").write_bytes(content)
    for read in (checked_record, save_report):
        with pytest.raises(CheckpointError, match=r"record\.json"):
            read(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_a_record_is_checked_before_it_is_added_to(tmp_path):
    for content in ('{"source": 3}', '{"source": "a", "recipe": {}}', '{"recovery": 1}'):
        (tmp_path / "record.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"record\.json is not a record as this version writes it"):
            checked_record(tmp_path)
