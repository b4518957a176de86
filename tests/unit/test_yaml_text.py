"""YAML of any kind is plain values or one message, and takes no more memory than what is written."""

import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuromeld.benchmark import Grid
from neuromeld.errors import UserInputError
from neuromeld.planning.recipe import load_recipe, recipe_model
from neuromeld.recovery import Recovery, load_recovery
from neuromeld.runtime.yaml_text import parse_yaml, read_yaml_file
from neuromeld.settings import validate

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
REFUSED = {
    "aliases of aliases": BOMB,
    "merged aliases of aliases": "a0: &a0 {x: 1}\n"
    + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 12)),
    "itself in itself": "a: &a [*a]",
    "depth": "[" * 5000,
    "a Python object": "!!python/object/apply:os.system ['true']",
    "a key twice": "ffn: {ratio: 0.5}\nffn: {ratio: 0.9}",
    "no such day": "2020-13-45",
    "no such time": "2020-01-01 99:99:99",
    "digits without end": "9" * 5000,
    "two documents": "a: 1\n---\nb: 2",
    "an unknown alias": "*nowhere",
    "a list as a key": "? [1]\n: 2",
    "zero": "\0",
    "not closed": "{a: 1",
    "no number": "!!int x",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_no_person_writes_is_refused(kind):
    with pytest.raises(UserInputError, match="^here is not valid YAML: ."):
        parse_yaml(REFUSED[kind], "here")


def test_anchors_and_merged_mappings_are_read():
    content = "base: &b {ratio: 0.5, merge: none}\none: *b\ntwo: {<<: *b, ratio: 0.7}\nday: 2020-01-02"
    found = parse_yaml(content, "here")
    assert found["one"] == {"ratio": 0.5, "merge": "none"}
    assert found["two"] == {"ratio": 0.7, "merge": "none"}
    assert found["day"] == datetime.date(2020, 1, 2)
    assert parse_yaml("", "here") is None


@pytest.mark.parametrize("load", [load_recipe, load_recovery])
@pytest.mark.parametrize(
    ("data", "why"),
    [(b"caf\xe9: 1", "not valid YAML"), (b"a" * (2**20 + 1), "more than 1,048,576 bytes"), (b"", "cannot be used"),
     (b"- 1", "cannot be used"), (b"1: 2", "cannot be used"), (None, "Is a directory"),
     (b"!!binary aGk=", "cannot be used")],
)  # fmt: skip
def test_files_that_hold_no_recipe_are_one_message(load, data, why, tmp_path):
    path = tmp_path / "a.yaml"
    path.mkdir() if data is None else path.write_bytes(data)
    with pytest.raises(UserInputError, match=why):
        load(str(path))
    for name in (tmp_path / "none.yaml", tmp_path / ("n" * 300 + ".yaml"), "\0.yaml"):
        with pytest.raises(UserInputError, match="cannot read the recipe"):
            load(str(name))


@given(st.binary(max_size=100) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_values_or_one_message(data):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.yaml"
        path.write_bytes(data)
        try:
            read_yaml_file(path, "recipe")
            said = str(path)
        except UserInputError as error:
            said = str(error)
        assert str(path) in said


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.binary(max_size=4) | st.dates()
    | st.sampled_from(["auto", "file:x", "ffn.size", "shared", "run:2", "none", 0.5, 1, 2, 512])
)  # fmt: skip


def settings_like(kind):
    """Nested values under the keys of these settings, and under others."""
    names = {*kind.model_fields, "ratio", "size", "count", "layers", "window", "recipe", "fit", "slicegpt", "seed"}
    keys = st.sampled_from(sorted(names)) | st.text(max_size=3) | st.integers()
    return st.recursive(
        SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=10
    )


@pytest.mark.parametrize("kind", [recipe_model(), Recovery, Grid])
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(data=st.data())
def test_settings_of_any_shape_are_valid_or_one_message(kind, data):
    value = data.draw(settings_like(kind))
    if kind is Grid and isinstance(value, dict):
        rows = {"a": {"recipe": value, "fit": data.draw(st.sampled_from(["ffn.size", "drop_layers.count"]))}}
        value = {"models": ["m"], "rows": rows, "keep": [0.5], **{k: v for k, v in value.items() if k != "rows"}}
    try:
        found = validate(kind, parse_yaml(yaml.safe_dump(value), "here"))
    except UserInputError:
        return
    assert validate(kind, found.model_dump()) == found
