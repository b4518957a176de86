"""`neuromeld similarity` as a user meets it."""

import json
import sys
from xml.etree import ElementTree

import pytest
import torch

from neuromeld.checkpoint.source import locate
from neuromeld.cli import main
from neuromeld.data.text import token_windows
from neuromeld.evaluation.similarity import similarity
from neuromeld.planning.plan import architecture_of

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def cli(capsys, monkeypatch, checkpoint, text):
    def run(*arguments: object) -> tuple[int, str, str]:
        options = ["--calibration", text, "--calibration-tokens", 512, "--seqlen", 32, "--seed", 5]
        monkeypatch.setattr(sys, "argv", ["neuromeld", "similarity", *map(str, [checkpoint, *options, *arguments])])
        with pytest.raises(SystemExit) as exit_:
            main()
        captured = capsys.readouterr()
        return int(exit_.value.code or 0), captured.out, captured.err

    return run


def test_json_has_the_similarity_of_every_two_layers(cli, checkpoint, text, tmp_path):
    code, stdout, _ = cli("--json", "--out", tmp_path / "found.json")
    assert code == 0
    found = json.loads(stdout)
    assert json.loads((tmp_path / "found.json").read_text()) == found
    source = locate(str(checkpoint))
    windows = token_windows(text, source.tokenizer(), split="calibration", num_tokens=512, seqlen=32, seed=5)
    model = source.load(None, "cpu")
    expected = similarity(model, architecture_of(model), [{"input_ids": windows.input_ids}])
    for name, matrix in (("ffn", expected.ffn), ("attention", expected.attention)):
        torch.testing.assert_close(torch.tensor(found["similarity"][name], dtype=torch.float64), matrix)
    assert found["calibration"] == {
        "source": text,
        "split": "calibration",
        "sha256": windows.sha256,
        "tokens": 512,
    }


def test_most_similar_windows_are_printed(cli):
    code, stdout, stderr = cli()
    assert code == 0
    rows = [line for line in stdout.splitlines() if "(0." in line]
    assert len(rows) == 2  # of two and of three adjacent layers; there are three
    assert "0-2 (0." in rows[1]
    assert "comparing layers" in stderr


@pytest.mark.parametrize("suffix", ["html", "svg"])
def test_heat_maps_are_drawn_in_a_file_that_needs_nothing_else(cli, suffix, tmp_path):
    out = tmp_path / f"maps.{suffix}"
    assert cli("--out", out)[0] == 0
    root = ElementTree.fromstring(out.read_text().removeprefix("<!DOCTYPE html>"))
    cells = [element for element in root.iter() if element.tag.removeprefix(SVG) == "title" and ", " in element.text]
    assert len(cells) == 2 * 3 * 3
    assert {"Feed-forward networks", "Attention"} <= {(element.text or "").strip() for element in root.iter()}
    for element in root.iter():
        assert not element.attrib.keys() & {"src", "data"}
        assert element.attrib.get("href", "#").startswith("#")


@pytest.mark.parametrize("out", ["maps.png", "nowhere/maps.svg"])
def test_file_that_cannot_be_is_refused_before_the_work(cli, out, tmp_path):
    code, stdout, stderr = cli("--out", tmp_path / out)
    assert code == 2
    assert ".html, .svg, .json" in stderr
    assert stdout == ""
