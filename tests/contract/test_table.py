"""The table in the documents is what the code says."""

from contract.table import DOCUMENT, render


def test_table_is_up_to_date():
    assert DOCUMENT.read_text(encoding="utf-8") == render(), "write it anew: make table"
