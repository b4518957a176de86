"""How to load the result, and what it was made from and with."""

import yaml
from markupsafe import Markup

from neuromeld.checkpoint.export.form import HEAD, recorded_rows
from neuromeld.checkpoint.loading import load_lines
from neuromeld.drawing.section import Record, Section, code, facts, join, number, paragraph, table

NATIVE = "import neuromeld  # or: pass trust_remote_code=True, the code is in this folder\n"


def loading(record: Record) -> Section | None:
    """Show the lines that load the checkpoint, by its format."""
    if "format" not in record:
        return None
    snippet = load_lines(record)
    if record["format"] == "native":
        snippet = NATIVE + snippet
    parts: list[Markup] = [code(snippet)]
    if (needs := record.get("requires")) is not None:
        parts.append(paragraph("It needs {needs}.", needs=needs))
    if (difference := record.get("logit_difference")) is not None:
        parts.append(
            paragraph(
                "It was loaded again when it was written; its logits had moved by {difference} of the largest.",
                difference=number(difference),
            )
        )
    if rows := recorded_rows(record):
        parts.append(table("Engines", HEAD, rows))
    return Section("Load it", join(parts))


def recipe(record: Record) -> Section | None:
    """Show the recipe, as `recipe.yaml` has it."""
    if not record.get("recipe"):
        return None
    return Section("Recipe", code(yaml.safe_dump(record["recipe"], sort_keys=False)))


def calibration(record: Record) -> Section | None:
    """Show the data that statistics were taken from."""
    if not record.get("calibration"):
        return None
    return Section("Calibration data", facts(record["calibration"]))


def versions(record: Record) -> Section | None:
    """Show the versions that it was made with."""
    if not record.get("versions"):
        return None
    return Section("Made with", facts(record["versions"]))
