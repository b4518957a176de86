"""Recipes: which stages there are, what is refused, and that every mistake is named at once."""

import pytest

from neuromeld.errors import UserInputError
from neuromeld.planning.recipe import RECIPES, Recipe, load_recipe, parse_recipe, read_yaml

WIDTH = {"hidden_size": 16}
BAD = {
    "empty": ({}, "nothing to do: give at least one stage of drop_layers, remove_ffns, experts, heads, ffn, width"),
    "merged heads": (
        {"heads": {"num_kv_heads": 1, "merge": "transport"}},
        "heads: merge='transport' is not for heads: averaged groups lose more",
    ),
    "no stage": ({"output": "stock"}, "nothing to do"),
    "stage": ({"fnn": {"size": 8}}, "unknown recipe key 'fnn'. Did you mean 'ffn'?"),
    "key": ({"ffn": {"ratoi": 0.5}}, "unknown recipe key 'ffn.ratoi'. Did you mean 'ratio'?"),
    "bases": (
        {"width": WIDTH | {"basis": "run:2"}, "share_ffns": {"count": 2}},
        "share_ffns needs width.basis=shared: FFNs in different bases have nothing in common",
    ),
    "widths": ({"ffn": {"size": [8, 9]}, "share_ffns": {"count": 2}}, "share_ffns needs FFNs of one width"),
    "two targets": ({"ffn": {"size": 8, "ratio": 0.5}}, "ffn: give one of ratio and size"),
    "no target": ({"ffn": {}}, "ffn: give one of ratio and size"),
    "ratio": ({"ffn": {"ratio": 1.2}}, "ratio=1.2 is outside (0, 1]; it is what is kept: for 20 % smaller pass 0.8"),
    "size": ({"ffn": {"size": [8, -1]}}, "size=(8, -1) must be at least 1 in every layer"),
    "groups": ({"heads": {"num_kv_heads": [1, 0]}}, "num_kv_heads=(1, 0) must be at least 1 in every layer"),
    "selector": ({"ffn": {"size": 8, "selector": "wandda"}}, "unknown selector 'wandda'. Did you mean 'wanda'?"),
    "selector of heads": ({"heads": {"num_kv_heads": 1, "selector": "rms"}}, "unknown selector 'rms'"),
    "merge": ({"ffn": {"size": 8, "merge": "kmean"}}, "unknown merge 'kmean'. Did you mean 'kmeans'?"),
    "window": ({"share_ffns": {"window": [3, 1]}}, "window=[3, 1] must be first and last layer, counted from 0"),
    "count and window": ({"share_ffns": {"window": [1, 3], "count": 3}}, "give one of count and window"),
    "nothing to drop": ({"drop_layers": {"count": 0}}, "count=0 must be at least 1"),
    "one FFN": ({"share_ffns": {"window": [3, 3]}}, "at least two FFNs are needed to share weights"),
    "inert": ({"ffn": {"size": 8, "anchor": "first"}}, "unknown recipe key 'ffn.anchor'"),
}


@pytest.mark.parametrize("case", BAD)
def test_mistake_is_refused_with_what_is_wrong(case):
    data, message = BAD[case]
    with pytest.raises(UserInputError) as error:
        parse_recipe(data)
    assert message in str(error.value)


def test_every_mistake_is_reported_at_once():
    with pytest.raises(UserInputError) as error:
        parse_recipe({"ffn": {"ratio": 2}, "heads": {}, "widht": {}, "calibration": {"tokens": 8, "seqlen": 9}})
    for message in ("ffn.ratio: ratio=2", "heads.num_kv_heads", "Did you mean 'width'?", "calibration: tokens=8"):
        assert message in str(error.value)


def test_stages_run_in_one_order_however_they_are_given():
    stages = {
        "share_ffns": {"window": [0, 1]},
        "width": WIDTH,
        "ffn": {"size": 8},
        "heads": {"num_kv_heads": [1, 2]},
        "drop_layers": {"count": 1},
    }
    recipe = parse_recipe(stages)
    assert recipe.stages == ["drop_layers", "heads", "ffn", "width", "share_ffns"]
    assert parse_recipe({"ffn": {"size": 8}}).stages == ["ffn"]


def test_sizes_may_differ_by_layer():
    recipe = parse_recipe({"ffn": {"size": [24, 40, 8]}, "heads": {"num_kv_heads": [1, 2, 2]}})
    assert recipe.ffn.size == (24, 40, 8)
    assert recipe.heads.num_kv_heads == (1, 2, 2)
    assert parse_recipe({"ffn": {"size": 8}}).ffn.size == 8


def test_yaml_round_trip(tmp_path):
    recipe = parse_recipe({"ffn": {"size": [24, 40]}, "drop_layers": {"layers": [1, 2]}, "width": WIDTH})
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    assert load_recipe(str(tmp_path / "recipe.yaml")) == recipe


@pytest.mark.parametrize("name", RECIPES)
def test_shipped_recipe_is_valid_and_described(name):
    assert isinstance(load_recipe(name), Recipe)
    assert RECIPES[name].read_text().startswith("# ")


def test_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserInputError, match="cannot read the recipe .*nowhere.yaml"):
        read_yaml(str(tmp_path / "nowhere.yaml"), RECIPES)
    (tmp_path / "bad.yaml").write_text("width: {")
    with pytest.raises(UserInputError, match="bad.yaml is not valid YAML"):
        read_yaml(str(tmp_path / "bad.yaml"), RECIPES)
