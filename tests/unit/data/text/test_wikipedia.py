import bz2
import re
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import pytest

from neuromeld.data.sources import _gensim, wikipedia
from neuromeld.data.sources._wikitext import is_disambiguation, strip_markup
from neuromeld.data.sources.news import news_sample
from neuromeld.errors import UserInputError

SPLITS = ("calibration", "validation", "evaluation")
LEFTOVER = re.compile(
    r"\{\{|\}\}|\[\[|\]\]|\{\||\|\}|\|\s*thumb|<ref|</|'''|==|\b(colspan|bgcolor|style)=|__TOC__|&\w+;"
)

needs_gensim = pytest.mark.skipif(find_spec("gensim") is None, reason=f"needs gensim: {_gensim.INSTALL}")


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("'''Bold''' and ''italic''", "Bold and italic"),
        ("the ''Iliad'''s end", "the Iliad's end"),
        ("a [[cat]] and [[Felis|its kin]]", "a cat and its kin"),
        ("[[File:A.jpg|thumb|200px|A [[cat]]]]A cat", "A cat"),
        ("fact<ref name=a>{{cite book|title=T}}</ref>.<ref name=a/>", "fact."),
        ('before\n{| class="wikitable"\n! a\n|-\n| b\n|}\nafter', "before\n\nafter"),
        ("{{Infobox x|y=[[z]]}}Prose (pronounced {{IPA|x}}) here", "Prose (pronounced) here"),
        ("A ({{lang|el|ἄβαξ}}, {{IPA|x}}) of {{convert|5|km|mi}}", "A (ἄβαξ) of 5 km"),
        ("[http://x.org a link] &amp; more<!-- hidden -->", "a link & more"),
        ("* one\n* two", "one\ntwo"),
        ("Lead\n== History ==\nOld\n=== Early ===\nOlder", "Lead\n\nHistory\n\nOld\n\nEarly\n\nOlder"),
        ("Lead\n==References==\nnote\n===Books===\nbook\n== Legacy ==\nlasting", "Lead\n\nLegacy\n\nlasting"),
        ("Prose\n{{broken [[link\nMore prose", "Prose\n\nMore prose"),
        ("[[Category:Cats]]", ""),
    ],
)
def test_strip_markup(markup, text):
    assert strip_markup(markup) == text


def test_disambiguation_pages_are_told_from_articles():
    assert is_disambiguation("'''Ada''' may refer to:\n{{Disambiguation}}")
    assert not is_disambiguation("{{for|other uses|Ada (disambiguation)}} Ada was")


def page(title: str, text: str, ns: int = 0, redirect: str = "") -> str:
    return f"<page><title>{title}</title><ns>{ns}</ns>{redirect}<revision><text>{text}</text></revision></page>"


@pytest.fixture
def dump(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("NEUROMELD_CACHE", str(tmp_path / "cache"))
    prose = "Prose. " * 200
    pages = [
        page("Article", prose),
        page("Stub", "short"),
        page("Talk", prose, ns=1),
        page("Moved", prose, redirect="<redirect/>"),
        page("Meanings", prose + "{{disambig}}"),
    ]
    path = tmp_path / "dump.bz2"
    path.write_bytes(bz2.compress(f"<mediawiki xmlns='urn:x'>{''.join(pages)}</mediawiki>".encode()))
    return path


def test_only_articles_with_prose_are_kept(dump):
    assert [article.name for article in wikipedia.articles(dump)] == ["Article"]


def test_the_second_reading_comes_from_the_cache(dump, monkeypatch):
    first = wikipedia.articles(dump)
    monkeypatch.setattr(wikipedia, "strip_markup", None)
    assert wikipedia.articles(dump) == first
    assert [path.suffix for path in (dump.parent / "cache" / "text").iterdir()] == [".jsonl"]


def test_a_cache_that_cannot_be_written_is_said_and_done_without(dump, monkeypatch, capsys):
    kept = wikipedia.articles(dump)
    monkeypatch.setenv("NEUROMELD_CACHE", "/dev/null/x")
    assert wikipedia.articles(dump) == kept
    assert "wikipedia-sample is not kept" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("what", ["dump", "version"])
def test_the_cache_is_keyed_by_the_dump_and_the_version(dump, monkeypatch, what):
    wikipedia.articles(dump)
    if what == "dump":
        dump.write_bytes(dump.read_bytes() + bz2.compress(b""))
    else:
        monkeypatch.setattr(wikipedia, "STRIPPING_VERSION", -1)
    wikipedia.articles(dump)
    assert len(list((dump.parent / "cache" / "text").iterdir())) == 2


@pytest.mark.parametrize("source", [wikipedia.wikipedia_sample, news_sample])
def test_without_gensim_the_error_says_what_to_install(source, monkeypatch):
    monkeypatch.setattr(_gensim, "find_spec", lambda _: None)
    with pytest.raises(UserInputError, match=r"pip install --no-deps gensim==4\.4\.0"):
        source("calibration")


@pytest.fixture(scope="session")
def sample(tmp_path_factory) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEUROMELD_CACHE", str(tmp_path_factory.mktemp("cache")))
        return {split: wikipedia.wikipedia_sample(split) for split in SPLITS}


@needs_gensim
def test_the_sample_has_the_articles_it_promises(sample):
    assert {split: len(documents) for split, documents in sample.items()} == {
        "calibration": 49,
        "validation": 13,
        "evaluation": 34,
    }
    assert len({document for documents in sample.values() for document in documents}) == 96


@needs_gensim
def test_no_markup_is_left_in_the_sample(sample):
    lines = [line for documents in sample.values() for document in documents for line in document.text.splitlines()]
    assert [line for line in lines if LEFTOVER.search(line)] == []


@needs_gensim
def test_the_prose_survives(sample):
    texts = {document.name: document.text for documents in sample.values() for document in documents}
    assert texts["Abacus"].startswith("The abacus (plural abaci or abacuses), also called a counting frame, is a")
    assert 2.5e6 < sum(map(len, texts.values())) < 3.0e6


@needs_gensim
def test_the_text_is_that_of_the_stripping_version(sample):
    """Whoever changes the text raises the version, for the cache's sake, and writes the new hash here."""
    texts = sorted(document.text for documents in sample.values() for document in documents)
    assert (wikipedia.STRIPPING_VERSION, sha256("".join(texts).encode()).hexdigest()[:16]) == (1, "004b6d36f2398b4c")
