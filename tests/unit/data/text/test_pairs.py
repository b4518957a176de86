"""Pairs of texts: both kinds of file say the same, and no source is in two splits."""

import json

import pytest

from neuromeld.data.text import text_pairs
from neuromeld.data.text.libreoffice import libreoffice_help
from neuromeld.errors import UserInputError

PAIRS = [(f"source {i % 40}", f"target {i}") for i in range(50)]
SPLITS = ("calibration", "validation", "evaluation")


@pytest.fixture(params=["tsv", "jsonl"])
def source(tmp_path, request) -> str:
    path = tmp_path / f"pairs.{request.param}"
    lines = [
        "\t".join(pair) if request.param == "tsv" else json.dumps(dict(zip(KEYS, pair, strict=True))) for pair in PAIRS
    ]
    path.write_text("\n".join(lines) + "\n\n")
    return f"file:{path}"


KEYS = ("source", "target")


def test_every_pair_is_in_one_split_and_every_source_too(source):
    parts = [text_pairs(source, split) for split in SPLITS]
    assert sorted(pair for part in parts for pair in part) == sorted(PAIRS)
    sources = [{text for text, _ in part} for part in parts]
    assert sum(map(len, sources)) == len(set().union(*sources)) == 40


def test_bad_lines_are_named(tmp_path):
    for name, line, why in (
        ("a.tsv", "one\ttwo\tthree", "line 2 is not a source, one tab and a target"),
        ("a.jsonl", "{", "line 2 is not JSON"),
        ("a.jsonl", '{"source": "a"}', 'line 2 is not {"source"'),
        ("a.txt", "", "ends neither in .tsv nor in .jsonl"),
    ):
        (tmp_path / name).write_text(f"\n{line}\n")
        with pytest.raises(UserInputError, match=why):
            text_pairs(f"file:{tmp_path / name}", "calibration")
    with pytest.raises(UserInputError, match="Did you mean"):
        text_pairs("libreoffice-help-en-d", "calibration")


def test_paragraphs_are_aligned_by_their_ids(tmp_path):
    english = """<h1 id="hd_id1">Sorting</h1><p>no id</p><p id="par_id2">Sort <b>all</b>
        rows &amp; columns.</p><p id="par_id3">Same</p><p id="par_id4">Only here</p>"""
    german = (
        """<p id="par_id2">Sortiert <i>alle</i> Zeilen.</p><p id="par_id3">Same</p><h1 id="hd_id1">Sortieren</h1>"""
    )
    for language, page in (("en-US", english), ("de", german)):
        (tmp_path / language / "text" / "calc").mkdir(parents=True)
        (tmp_path / language / "text" / "calc" / "sort.html").write_text(page)
    assert libreoffice_help(tmp_path) == [
        ("Sorting", "Sortieren"),
        ("Sort all rows & columns.", "Sortiert alle Zeilen."),
    ]
    with pytest.raises(UserInputError, match="apt-get install"):
        libreoffice_help(tmp_path / "nowhere")
