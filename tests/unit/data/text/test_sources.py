from importlib.util import find_spec

import datasets
import pytest

from neuromeld.data.sources import TEXT_SOURCES, hub
from neuromeld.data.sources._gensim import INSTALL
from neuromeld.data.sources.python_docs import docstrings, module_files
from neuromeld.data.text import read_documents
from neuromeld.errors import UserInputError

SPLITS = ("calibration", "validation", "evaluation")

needs_gensim = pytest.mark.skipif(find_spec("gensim") is None, reason=f"needs gensim: {INSTALL}")


def test_the_sources_are_those_that_are_documented():
    hub, packaged = {"wikitext2", "c4"}, {"wikipedia-sample", "news-sample", "python-docs", "libreoffice-help-de"}
    assert set(TEXT_SOURCES) == hub | packaged


def test_an_unknown_source_is_refused_with_a_suggestion(tokenizer):
    message = r"unknown text source \(or file:PATH\) 'wikitext'. Did you mean 'wikitext2'\?"
    with pytest.raises(UserInputError, match=message):
        read_documents("wikitext", "calibration", tokenizer)


@needs_gensim
def test_news_is_300_articles_divided_without_overlap():
    parts = [[document.text for document in TEXT_SOURCES["news-sample"](split)] for split in SPLITS]
    assert sum(map(len, parts)) == 300
    assert sum(len(set(part)) for part in parts) == len(set().union(*parts)) == 293
    assert min(len(text) for part in parts for text in part) > 100


def test_python_docs_have_one_document_a_module_divided_without_overlap():
    parts = [TEXT_SOURCES["python-docs"](split) for split in SPLITS]
    names = [document.name for part in parts for document in part]
    assert len(set(names)) == len(names) > 300
    text = {document.name: document.text for part in parts for document in part}
    assert "Heap queue algorithm" in text["heapq"]
    assert "asyncio.queues" in text


def test_modules_are_sorted_and_without_tests():
    names = [name for name, _ in module_files()]
    assert "ctypes.wintypes" in names
    assert not any("test" in name.split(".")[1:] for name in names if "." in name)
    assert [name.split(".")[0] for name in names] == sorted(name.split(".")[0] for name in names)


def test_docstrings_come_in_the_order_of_the_file():
    functions = "    def f(self):\n        'three'\n\ndef g():\n    'four'\n"
    source = f"'one'\nclass A:\n    '''two\n\n    more'''\n{functions}".encode()
    assert docstrings(source) == "one\n\ntwo\n\nmore\n\nthree\n\nfour"


def serve(monkeypatch, tables):
    calls = []

    def load_dataset(name, config, *, split, streaming):
        calls.append((name, config, split, streaming))
        return ({"text": text} for text in tables[split])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def test_wikitext2_is_calibrated_by_article_and_evaluated_as_one_text(monkeypatch):
    rows = ["", " = One = \n", " = = Part = = \n", " a \n", " = Two = \n", " b \n"]
    calls = serve(monkeypatch, {"train": rows, "test": rows, "validation": rows[:3]})
    train = TEXT_SOURCES["wikitext2"]("calibration")
    assert [(d.name, d.text) for d in train] == [
        ("One", " = One = \n\n\n = = Part = = \n\n\n a \n"),
        ("Two", " = Two = \n\n\n b \n"),
    ]
    assert [d.text for d in TEXT_SOURCES["wikitext2"]("evaluation")] == ["\n\n".join(rows)]
    assert [d.text for d in TEXT_SOURCES["wikitext2"]("validation")] == ["\n\n".join(rows[:3])]
    expected = [("Salesforce/wikitext", "wikitext-2-raw-v1", s, False) for s in ("train", "test", "validation")]
    assert calls == expected


def test_c4_streams_no_more_than_it_uses_and_its_splits_are_disjoint(monkeypatch):
    monkeypatch.setattr(hub, "C4_DOCUMENTS", 50)
    endless = {"train": map("train {}".format, range(10**9)), "validation": [f"page {i}" for i in range(80)]}
    calls = serve(monkeypatch, endless)
    assert [d.text for d in TEXT_SOURCES["c4"]("calibration")] == [f"train {i}" for i in range(50)]
    assert [d.text for d in TEXT_SOURCES["c4"]("validation")] == [f"page {i}" for i in range(5)]
    assert [d.text for d in TEXT_SOURCES["c4"]("evaluation")] == [f"page {i}" for i in range(5, 50)]
    assert set(calls) == {("allenai/c4", "en", "train", True), ("allenai/c4", "en", "validation", True)}


@pytest.mark.parametrize("source", ["wikitext2", "c4"])
def test_without_the_hub_the_error_names_what_works_offline(source, monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(
        UserInputError, match=f"'{source}' is .* cannot be reached .*Couldn't.*wikipedia-sample.*file:PATH"
    ):
        TEXT_SOURCES[source]("evaluation")
