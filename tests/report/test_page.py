"""The report as a document: well-formed, alone, complete, and safe for any text a record may hold."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from neuromeld.errors import CheckpointError
from neuromeld.report import render_report, save_report
from neuromeld.report.page import sections_of
from report.records import LEAST, everything

ALWAYS = {
    "What was done",
    "Before and after",
    "The residual stream",
    "Load it",
    "Recipe",
    "Calibration data",
    "Made with",
}

OPTIONAL = {
    "warnings": "Warnings",
    "evaluation": "What it lost",
    "tasks": "What it still knows",
    "samples": "Samples",
    "recovery": "Recovery",
    "candidates": "Candidates",
    "refits": "The consumer refit",
    "ffn": "Feed-forward networks",
    "heads": "Attention heads",
    "dropped_windows": "Removed layers",
    "removed_ffns_windows": "Removed feed-forward networks",
    "windows": "Shared feed-forward networks",
    "similarity": "Similarity of layers",
}


def titles(page: str) -> set[str]:
    return set(re.findall(r"<h2>(.*?)</h2>", page))


def text_of(page: str) -> str:
    """What a reader sees, without the spaces that mark-up makes."""
    return " ".join(" ".join(parse(page).find("body").itertext()).split())


def parse(page: str) -> ElementTree.Element:
    return ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>"))


@pytest.mark.parametrize("record", [LEAST, everything(), {}], ids=["least", "everything", "nothing"])
def test_page_is_well_formed_and_refers_to_nothing_outside(record):
    root = parse(render_report(record))
    anchors = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(anchors) == len(set(anchors))
    for element in root.iter():
        assert element.tag not in ("script", "link", "img", "iframe", "object", "base")
        for name, value in element.attrib.items():
            assert not name.startswith("on")
            if name in ("src", "href", "action", "data") or name.endswith("href"):
                assert value.removeprefix("#") in anchors
    style = root.find("head/style").text
    assert "@import" not in style
    assert "url(" not in style


@pytest.mark.parametrize("key", OPTIONAL)
def test_section_is_there_when_its_data_is_and_not_otherwise(key):
    assert titles(render_report(LEAST)) == ALWAYS
    assert titles(render_report(LEAST | {key: everything()[key]})) == ALWAYS | {OPTIONAL[key]}


def test_everything_fills_every_section():
    assert titles(render_report(everything())) == ALWAYS | set(OPTIONAL.values())
    assert len(sections_of(everything())) == len(ALWAYS) + len(OPTIONAL)
    assert titles(render_report({})) == set()


def hostile(value):
    """The record with every text in it made an attack."""
    if isinstance(value, dict):
        return {key: hostile(item) for key, item in value.items()}
    if isinstance(value, list):
        return [hostile(item) for item in value]
    return f"{value}</code></pre><script>alert(1)</script>&\"'{{0}}" if isinstance(value, str) else value


def test_text_of_the_record_is_escaped():
    record = hostile(everything())
    record["format"], record["recipe"]["width"]["basis"] = "native", "run:3"
    page = render_report(record)
    assert not {"script"} & {element.tag for element in parse(page).iter()}
    found: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, _: found.append(tag)
    parser.feed(page)
    assert "script" not in found
    assert "alert(1)" in text_of(page)


def test_numbers_of_the_record_are_the_ones_shown():
    text = text_of(render_report(everything()))
    for expected in (
        "parameters 134,515,008 105,089,850 78.1%",
        "bytes on disk 538,090,408 420,389,752 78.1%",
        "layers 30 30 100.0%",
        "hidden size 576 450 78.1%",
        "hidden neurons of all FFNs 46,080 28,800 62.5%",  # a third each of 1152, 960 and 768 of 1536
        "key-value heads of all layers 240 150 62.5%",
        "hidden neurons of each FFN: 1536 → 768 to 1152, 960 on average",
        "Layers 24, 25 were removed.",
        "The window from 17 to 20 was chosen",
        "relative error 0.41 before, 0.23 after",
        "held-out loss 4.305 3.612",
        "arc_easy 0.6400 0.6100 0.956 (0.920 to 0.990)",
        "from layer 15: neuron 3 5 85.0%",
        "narrowing attention and FFNs 1,234.5",
    ):
        assert expected in text
    lost = math.log(74.04 / 22.45)
    assert f"wikipedia-sample 22.450 74.040 {lost:.3f} {lost / 21.875:.4f}" in text


def test_window_that_was_given_is_said_without_a_search():
    text = text_of(render_report(LEAST | {"window": {"start": 3, "end": 5}, "dropped": [7]}))
    assert "Shared feed-forward networks The window from 3 to 5." in text
    assert "Removed layers The window from 7 to 7." in text


@pytest.mark.parametrize(("form", "line"), [("stock", False), ("native", True)])
def test_snippet_is_that_of_the_format(form, line):
    text = text_of(render_report(LEAST | {"format": form}))
    assert ("import neuromeld" in text) is line
    assert "AutoModelForCausalLM.from_pretrained" in text


def test_figures_say_what_they_show():
    drawings = list(parse(render_report(everything())).iter("svg"))
    assert len(drawings) == 22
    for drawing in drawings:
        assert drawing.get("role") == "img"
        assert len(drawing.get("aria-label")) > 30


def test_values_that_are_no_numbers_leave_the_page_whole():
    """NaN, infinity and null in every place a float may be."""

    def spoiled(value, bad):
        if isinstance(value, dict):
            return {
                k: spoiled(v, bad) if k not in ("perplexity", "kept_ratio", "energy_kept") else v
                for k, v in value.items()
            }
        if isinstance(value, list):
            return [spoiled(v, bad) for v in value]
        return bad if isinstance(value, float) else value

    for bad in (math.nan, math.inf):
        record = spoiled({k: v for k, v in everything().items() if k not in ("evaluation", "seconds")}, bad)
        page = render_report(record)
        parse(page)
        assert not re.search(r'="[^"]*\b(nan|inf)\b', page)


def test_report_is_written_where_it_is_asked_for(tmp_path):
    (tmp_path / "record.json").write_text(json.dumps(LEAST))
    assert save_report(tmp_path) == tmp_path / "report.html"
    assert save_report(tmp_path, tmp_path / "other.html").read_text() == (tmp_path / "report.html").read_text()


def test_folder_without_a_record_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="record.json cannot be read .*neuromeld compress"):
        save_report(tmp_path)
    (tmp_path / "record.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        save_report(tmp_path)
    (tmp_path / "record.json").write_text('{"songs": 3}')
    with pytest.raises(CheckpointError, match="tells of no compression and of no recovery"):
        save_report(tmp_path)
    (tmp_path / "record.json").write_text(json.dumps(LEAST))
    for out in (tmp_path / "nowhere" / "report.html", Path(), tmp_path, Path("n" * 300), Path("\0")):
        with pytest.raises(CheckpointError, match="cannot be written"):
            save_report(tmp_path, out)


def test_engines_are_told_as_serve_check_tells_them():
    page = render_report(everything())
    assert "<td>0.32.0</td><td>after `neuromeld export --to vllm`</td>" in page
    assert "<td>no: it is of no family that it knows</td>" in page
