"""Pairs of texts: both kinds of file say the same, and no source is in two splits."""

import gzip
import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuromeld.data.sources.libreoffice import libreoffice_help_de, libreoffice_help_en_de
from neuromeld.data.text import text_pairs
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
    assert libreoffice_help_en_de(tmp_path) == [
        ("Sorting", "Sortieren"),
        ("Sort all rows & columns.", "Sortiert alle Zeilen."),
    ]
    with pytest.raises(UserInputError, match="apt-get install"):
        libreoffice_help_en_de(tmp_path / "nowhere")


def test_pages_of_the_german_help_are_documents(tmp_path):
    for number in range(40):
        page = tmp_path / "de" / "text" / "calc" / f"{number}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(f'<h1 id="hd_id1">Seite {number}</h1><p>ohne Kennung</p><p id="par_id2">Größe</p>')
    pages = [
        one for split in ("calibration", "validation", "evaluation") for one in libreoffice_help_de(split, tmp_path)
    ]
    assert {page.text for page in pages} == {f"Seite {number}\nGröße" for number in range(40)}
    with pytest.raises(UserInputError, match="apt-get install"):
        libreoffice_help_de("calibration", tmp_path / "nowhere")


@given(st.binary(max_size=40), st.sampled_from(["a.tsv", "a.jsonl", "a.tsv.gz"]))
def test_any_bytes_are_pairs_or_one_message(data, name):
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        with pytest.raises(UserInputError, match=re.escape(str(path))):  # so few pairs are never enough for all splits
            [text_pairs(f"file:{path}", split) for split in SPLITS]


def test_pairs_are_read_in_utf_16_and_packed(tmp_path):
    lines = "\r\n".join("\t".join(pair) for pair in PAIRS)
    (tmp_path / "a.tsv").write_bytes(lines.encode("utf-16"))
    (tmp_path / "b.tsv.gz").write_bytes(gzip.compress(lines.encode("utf-8-sig")))
    for name in ("a.tsv", "b.tsv.gz"):
        parts = [text_pairs(f"file:{tmp_path / name}", split) for split in SPLITS]
        assert sorted(pair for part in parts for pair in part) == sorted(PAIRS)


def test_a_text_that_is_no_sentence_is_refused(tmp_path):
    (tmp_path / "a.tsv").write_text("x" * 2**21 + "\ty")
    with pytest.raises(UserInputError, match="line 1 has a text of 2,097,152 characters"):
        text_pairs(f"file:{tmp_path / 'a.tsv'}", "calibration")
