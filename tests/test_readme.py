"""What the README says can be typed, runs, and what it says was measured, is in the results."""

import re

import pytest

from result_tables import BLOCK, DOCUMENTS, ROOT, TABLES, update

README = ROOT / "README.md"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_tables_are_those_of_the_results(path):
    assert path.read_text(encoding="utf-8") == update(path), "write them anew: make table"


def test_every_table_stands_somewhere():
    assert {name for path in DOCUMENTS for _, name, _ in BLOCK.findall(path.read_text(encoding="utf-8"))} == set(TABLES)


def test_python_snippet_runs(checkpoint, text, tmp_path):
    (snippet,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    replacements = {
        '"path/to/model"': repr(str(checkpoint)),
        '"path/to/smaller"': repr(str(tmp_path / "smaller")),
        '"wikipedia-sample"': repr(text),
        "32768": "2048",
        "512": "32",
    }
    for old, new in replacements.items():
        assert old in snippet
        snippet = snippet.replace(old, new)
    namespace: dict[str, object] = {}
    exec(compile(snippet, str(README), "exec"), namespace)
    assert (tmp_path / "smaller" / "config.json").is_file()
    assert namespace["model"].config.intermediate_size == 24
