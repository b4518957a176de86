"""Write the tables."""

from result_tables import DOCUMENTS, update

for path in DOCUMENTS:
    path.write_text(update(path), encoding="utf-8")
