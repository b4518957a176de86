"""The page `docs/any-model.md` is of the transformers that is installed, and its shares are those of its tables."""

import re

import pytest

from contract.any_model import DOCUMENT, GOALS, KINDS, look_at, types_of

SECTIONS = {part.partition("\n")[0]: part for part in DOCUMENT.read_text(encoding="utf-8").split("\n## ")[1:]}
ROW = re.compile(r"^\| `(\S+)` \| ([a-z ]+)(?: \(\d+\))? \| ([a-z ]+)(?: \(\d+\))? \|$", re.MULTILINE)


@pytest.mark.parametrize("kind", [kind for kind, title in KINDS.items() if title in SECTIONS])
def test_every_type_is_on_the_page_and_the_shares_are_those_of_the_table(kind):
    section = SECTIONS[KINDS[kind]]
    rows = ROW.findall(section)
    unbuilt = re.findall(r"`(\S+?)`", section.partition("Not built small:")[2])
    types = [name for name, _ in types_of(kind)]
    assert sorted([*(name for name, *_ in rows), *set(unbuilt) & set(types)]) == sorted(types)
    both = sum("refused" not in cells for _, *cells in rows)
    ffn = sum(cells[0] != "refused" for _, *cells in rows)
    assert f"Of {len(types)} types {len(rows)} can be built small. FFNs can be narrowed in {ffn} of these" in section
    assert f"layers dropped, too, in {both} ({both / len(rows):.0%})" in section
    assert both / len(rows) >= GOALS.get(kind, 0)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("CAUSAL_LM", "phi"), ("CAUSAL_LM", "lfm2"), ("SEQ_TO_SEQ_CAUSAL_LM", "mbart"), ("MASKED_LM", "xlm")],
)
def test_what_is_found_anew_is_what_the_page_says(kind, name):
    found = look_at(name, dict(types_of(kind))[name])
    (cells,) = [cells for known, *cells in ROW.findall(SECTIONS[KINDS[kind]]) if known == name]
    assert list(found.cells) == cells
