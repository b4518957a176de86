"""What is printed is the text that was given, and nothing that a terminal would obey."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from neuromeld.cli.console import console, visible

HOSTILE = ["[red]name[/red]", "[/]", "<script>", "\x1b[2J\x1b]0;title\x07", "\u202egnp.x", "\udcff", ":smile:", "a\rb"]


@given(
    st.text(alphabet=st.characters(categories=["Cc", "Cf", "Cs", "Zs", "Co"])) | st.text() | st.sampled_from(HOSTILE)
)
def test_what_is_visible_can_be_encoded_and_says_which_characters_there_were(text):
    shown = visible(text)
    shown.encode("utf-8")
    assert all(c.isprintable() or c.isspace() for c in shown)
    assert not set(shown) & {chr(number) for number in [*range(9), *range(11, 32), *range(127, 160)]}
    assert shown == text or "\\" in shown


@pytest.mark.parametrize("text", HOSTILE)
def test_strings_and_tables_are_printed_as_they_are(text, capsys):
    console().print(f"in {text}", soft_wrap=True)
    table = Table("head", text, title="")
    table.add_row(text, "")
    console().print(table)
    console(stderr=True).print(text)
    captured = capsys.readouterr()
    assert captured.out.count(visible(text)) == 3
    assert captured.err == visible(text) + "\n"
