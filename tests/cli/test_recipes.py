"""Which option of the command line goes to which stage of the recipe."""

import sys

import pytest

from neuromeld.cli import main
from neuromeld.cli.recipes import CALIBRATION_OPTIONS, STAGE_OPTIONS, build_recipe
from neuromeld.errors import UserInputError
from neuromeld.planning.recipe import load_recipe, parse_recipe

GIVEN = {
    "nothing": ({}, None),
    "width": ({"hidden_size": 16}, {"width": {"hidden_size": 16}}),
    "ratio": ({"hidden_ratio": 0.5, "hidden_basis": "run:2", "hidden_decoder": "ridge", "hidden_refit": True},
              {"width": {"hidden_ratio": 0.5, "basis": "run:2", "decoder": "ridge", "refit": True}}),
    "transport": ({"hidden_size": 16, "hidden_selector": "rms", "hidden_merge": "transport",
                   "hidden_regularisation": 0.2, "hidden_weighting": "raw"},
                  {"width": {"hidden_size": 16, "selector": "rms", "merge": "transport", "regularisation": 0.2,
                             "weighting": "raw"}}),
    "ffn": ({"ffn_ratio": 0.5, "ffn_selector": "leverage", "ffn_merge": "kmeans", "ffn_compensate": "none"},
            {"ffn": {"ratio": 0.5, "selector": "leverage", "merge": "kmeans", "compensate": "none"}}),
    "a size for each layer": ({"ffn_size": "8,16", "num_kv_heads": "1,2"},
                              {"ffn": {"size": [8, 16]}, "heads": {"num_kv_heads": [1, 2]}}),
    "both, each in its own way": (
        {"ffn_size": "8", "num_kv_heads": "1", "ffn_selector": "flap", "heads_selector": "obs",
         "heads_compensate": "bias", "ffn_merge": "kmeans"},
        {"ffn": {"size": 8, "selector": "flap", "merge": "kmeans"},
         "heads": {"num_kv_heads": 1, "selector": "obs", "compensate": "bias"}}),
    "share_ffns": ({"share_ffns": 3, "share_ffns_anchor": "middle", "share_ffns_compensate": "none"},
                  {"share_ffns": {"count": 3, "anchor": "middle", "compensate": "none"}}),
    "share_ffns in a window": ({"share_ffns_at": "2-4", "share_ffns_align": "none", "share_ffns_combine": "average"},
                              {"share_ffns": {"window": [2, 4], "align": "none", "combine": "average"}}),
    "members keep something": ({"share_ffns": 3, "share_ffns_gain": "channel", "share_ffns_rank": 8},
                               {"share_ffns": {"count": 3, "gain": "channel", "rank": 8}}),
    "remove_ffns": ({"remove_ffns": 2}, {"remove_ffns": {"count": 2}}),
    "experts": ({"experts_count": 4, "experts_merge": "average"}, {"experts": {"count": 4, "merge": "average"}}),
    "FFNs removed in a window": ({"remove_ffns_at": "1-2"}, {"remove_ffns": {"layers": [1, 2]}}),
    "layers in a window": ({"drop_layers_at": "0-1"}, {"drop_layers": {"layers": [0, 1]}}),
    "layers here and there": ({"drop_layers_at": "3-5,8"}, {"drop_layers": {"layers": [3, 4, 5, 8]}}),
    "all": ({"drop_layers": 1, "num_kv_heads": "1", "ffn_size": "8", "hidden_size": 16, "share_ffns": 2,
             "hidden_decoder": "ridge", "ffn_compensate": "ridge"},
            {"drop_layers": {"count": 1}, "heads": {"num_kv_heads": 1}, "ffn": {"size": 8, "compensate": "ridge"},
             "width": {"hidden_size": 16, "decoder": "ridge"}, "share_ffns": {"count": 2}}),
    "output and calibration": ({"ffn_size": "8", "stock": False, "calibration": "file:a.txt",
                                "calibration_tokens": 4096, "seqlen": 64, "seed": 3},
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
    changed = build_recipe(recipe=str(file), ffn_size="8", drop_layers=1, hidden_size=16, stock=True)
    expected = {"ffn": {"size": 8, "selector": "leverage"}, "drop_layers": {"count": 1}, "width": {"hidden_size": 16}}
    assert changed == parse_recipe(expected | {"output": "stock"})
    assert build_recipe(recipe=str(file)) == load_recipe(str(file))


def test_options_without_a_stage_change_the_default_recipe():
    default, changed = load_recipe("default"), build_recipe(ffn_selector="mean_abs_activation", seed=7)
    assert changed.ffn == default.ffn.model_copy(update={"selector": "mean_abs_activation"})
    assert changed.calibration.seed == 7


BAD = {
    "merge of heads": ({"recipe": "MERGED"}, "averaged groups lose more than a group that is taken out"),
    "decoder of FFNs": (
        {"ffn_size": "8", "hidden_decoder": "ridge"},
        "--hidden-decoder ridge: there is no stage width",
    ),
    "anchor of FFNs": (
        {"ffn_size": "8", "share_ffns_anchor": "last"},
        "--share-ffns-anchor last: there is no stage share_ffns",
    ),
    "selector of the other kind": ({"ffn_size": "8", "ffn_selector": "principal"}, "unknown selector 'principal'"),
    "removed and merged": ({"remove_ffns": 2, "share_ffns": 2}, "remove_ffns decides over whole FFNs: leave out"),
    "how many and which": ({"drop_layers": 4, "drop_layers_at": "1-2"}, "give one of count and layers"),
    "turned round": ({"share_ffns_at": "4-1"}, "--share-ffns-at 4-1 must be FIRST-LAST"),
    "layers turned round": ({"drop_layers_at": "4-1"}, "--drop-layers-at 4-1 names no number from 4 to 1"),
    "some layers turned round": ({"drop_layers_at": "0,4-1"}, "write the lower one first"),
    "half a window": ({"share_ffns_at": "3-"}, "--share-ffns-at 3- must be FIRST-LAST"),
    "one layer": ({"share_ffns_at": "3"}, "--share-ffns-at 3 must be FIRST-LAST"),
    "words": ({"share_ffns_at": "a-b"}, "--share-ffns-at a-b must be FIRST-LAST"),
    "half a range": ({"drop_layers_at": "3-"}, "--drop-layers-at 3- must be numbers with commas between"),
    "layers in words": ({"remove_ffns_at": "a,b"}, "--remove-ffns-at a,b must be numbers with commas between"),
    "two targets": ({"ffn_size": "8", "ffn_ratio": 0.5}, "give one of ratio and size"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_not_clear_is_refused(case, tmp_path):
    options, message = BAD[case]
    if options.get("recipe") == "MERGED":
        (tmp_path / "merged.yaml").write_text("heads: {num_kv_heads: 1, merge: kmeans}\n")
        options = {"recipe": str(tmp_path / "merged.yaml")}
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
    for option in (*STAGE_OPTIONS, *CALIBRATION_OPTIONS):
        assert f"{option.flag} " in shown
        assert option.info.description.split()[0] in shown
    for name in ("--recipe", "--stock", "--native", "--no-hidden-refit", "FIRST-LAST", "LAYERS"):
        assert name in shown
    assert "--json" in shown
