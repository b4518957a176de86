"""Which option of the command line goes to which stage of the recipe."""

import inspect
import sys

import pytest

from neuromeld.cli import main
from neuromeld.cli.recipes import build_recipe
from neuromeld.errors import UserInputError
from neuromeld.planning.recipe import load_recipe, parse_recipe

GIVEN = {
    "nothing": ({}, None),
    "width": ({"hidden_size": 16}, {"width": {"hidden_size": 16}}),
    "ratio": ({"hidden_ratio": 0.5, "basis": "run:2", "decoder": "ridge", "refit": True},
              {"width": {"hidden_ratio": 0.5, "basis": "run:2", "decoder": "ridge", "refit": True}}),
    "transport": ({"hidden_size": 16, "selector": "rms", "merge": "transport", "regularisation": 0.2},
                  {"width": {"hidden_size": 16, "selector": "rms", "merge": "transport", "regularisation": 0.2}}),
    "ffn": ({"ffn_ratio": 0.5, "selector": "leverage", "merge": "kmeans", "compensate": "none"},
            {"ffn": {"ratio": 0.5, "selector": "leverage", "merge": "kmeans", "compensate": "none"}}),
    "both": ({"ffn_size": 8, "num_kv_heads": 1, "selector": "flap", "compensate": "bias", "merge": "kmeans"},
             {"ffn": {"size": 8, "selector": "flap", "compensate": "bias", "merge": "kmeans"},
              "heads": {"num_kv_heads": 1, "selector": "flap", "compensate": "bias"}}),
    "share_ffns": ({"share_ffns": 3, "anchor": "middle", "compensate": "none"},
                  {"share_ffns": {"count": 3, "anchor": "middle", "compensate": "none"}}),
    "share_ffns in a window": ({"share_ffns": 3, "window": "2-4", "align": "none"},
                              {"share_ffns": {"window": [2, 4], "align": "none"}}),
    "members keep something": ({"share_ffns": 3, "gain": "channel", "rank": 8},
                               {"share_ffns": {"count": 3, "gain": "channel", "rank": 8}}),
    "remove_ffns": ({"remove_ffns": 2}, {"remove_ffns": {"count": 2}}),
    "FFNs deleted in a window": ({"remove_ffns": 2, "window": "1-2"}, {"remove_ffns": {"layers": [1, 2]}}),
    "layers in a window": ({"drop_layers": 2, "window": "0-1"}, {"drop_layers": {"layers": [0, 1]}}),
    "all": ({"drop_layers": 1, "num_kv_heads": 1, "ffn_size": 8, "hidden_size": 16, "share_ffns": 2, "decoder": "ridge",
             "compensate": "ridge"},
            {"drop_layers": {"count": 1}, "heads": {"num_kv_heads": 1, "compensate": "ridge"},
             "ffn": {"size": 8, "compensate": "ridge"}, "width": {"hidden_size": 16, "decoder": "ridge"},
             "share_ffns": {"count": 2, "compensate": "ridge"}}),
    "output and calibration": ({"ffn_size": 8, "stock": False, "calibration": "file:a.txt", "calibration_tokens": 4096,
                                "seqlen": 64, "seed": 3},
                               {"ffn": {"size": 8}, "output": "native",
                                "calibration": {"source": "file:a.txt", "tokens": 4096, "seqlen": 64, "seed": 3}}),
}  # fmt: skip


@pytest.mark.parametrize("case", GIVEN)
def test_options_make_a_recipe(case):
    options, expected = GIVEN[case]
    assert build_recipe(**options) == (load_recipe("default") if expected is None else parse_recipe(expected))


def test_options_change_a_recipe_and_a_target_takes_the_place_of_another(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("ffn: {ratio: 0.5, selector: leverage}\ndrop_layers: {layers: [1, 2]}\noutput: native\n")
    changed = build_recipe(recipe=str(file), ffn_size=8, drop_layers=1, hidden_size=16, stock=True)
    expected = {"ffn": {"size": 8, "selector": "leverage"}, "drop_layers": {"count": 1}, "width": {"hidden_size": 16}}
    assert changed == parse_recipe(expected | {"output": "stock"})
    assert build_recipe(recipe=str(file)) == load_recipe(str(file))


def test_options_without_a_stage_change_the_default_recipe():
    default, changed = load_recipe("default"), build_recipe(selector="mean_abs_activation", seed=7)
    assert changed.ffn == default.ffn.model_copy(update={"selector": "mean_abs_activation"})
    assert changed.calibration.seed == 7


BAD = {
    "selector of two kinds": (
        {"hidden_size": 16, "ffn_size": 8, "selector": "mean_abs_activation"},
        "--selector magnitude: it could mean width or ffn; write a recipe file and pass it by --recipe",
    ),
    "merge of two kinds": ({"hidden_size": 16, "ffn_size": 8, "merge": "transport"}, "it could mean width or ffn"),
    "merge of heads": ({"num_kv_heads": 1, "merge": "kmeans"}, "--merge kmeans: no stage takes it"),
    "selector of layers": ({"drop_layers": 1, "selector": "wanda"}, "--selector wanda: no stage takes it"),
    "compensate of the width": ({"hidden_size": 16, "compensate": "ridge"}, "--compensate ridge: no stage takes it"),
    "decoder of FFNs": ({"ffn_size": 8, "decoder": "ridge"}, "--decoder ridge: there is no stage width"),
    "anchor of FFNs": ({"ffn_size": 8, "anchor": "last"}, "--anchor last: there is no stage share_ffns"),
    "selector of the other kind": ({"ffn_size": 8, "selector": "principal"}, "unknown selector 'principal'"),
    "window of nothing": ({"window": "1-2"}, "--window needs one of --drop-layers, --remove-ffns and --share-ffns"),
    "window of both": ({"window": "1-2", "drop_layers": 2, "share_ffns": 2}, "--window needs one of"),
    "deleted and merged": ({"remove_ffns": 2, "share_ffns": 2}, "remove_ffns decides over whole FFNs: leave out"),
    "length": ({"window": "1-4", "drop_layers": 2}, "--window 1-4 spans 4 layers, not 2"),
    "turned round": ({"window": "4-1", "drop_layers": 2}, "--window 4-1 must be START-END"),
    "half a window": ({"window": "3-", "drop_layers": 2}, "--window 3- must be START-END"),
    "one number": ({"window": "3", "drop_layers": 1}, "--window 3 must be START-END"),
    "words": ({"window": "a-b", "drop_layers": 2}, "--window a-b must be START-END"),
    "two targets": ({"ffn_size": 8, "ffn_ratio": 0.5}, "give one of ratio and size"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_not_clear_is_refused(case):
    options, message = BAD[case]
    with pytest.raises(UserInputError) as error:
        build_recipe(**options)
    assert message in str(error.value)


@pytest.mark.parametrize("command", ["compress", "plan"])
def test_help_lists_the_options_of_a_recipe(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["neuromeld", command, "--help"])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert not exit_.value.code
    shown = capsys.readouterr().out
    names = {"stock": "--native", "refit": "--no-refit", "window": "START-END"}
    for name in inspect.signature(build_recipe).parameters:
        assert f"--{name.replace('_', '-')}" in shown
        assert names.get(name, "") in shown
    assert "--json" in shown
