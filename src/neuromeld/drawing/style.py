"""The style sheet of pages and drawings."""

from pathlib import Path

from markupsafe import Markup

STYLE = Markup((Path(__file__).parent / "style.css").read_text(encoding="utf-8"))
