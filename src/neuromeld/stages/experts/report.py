"""The part of a report that shows which experts of every layer stayed."""

from collections.abc import Sequence
from typing import Any

from neuromeld.drawing.charts import heat_map
from neuromeld.drawing.section import Section, folded, join, paragraph, table
from neuromeld.stages.fit_charts import before_and_after, drawn


def experts_section(entries: Sequence[dict[str, Any]] | None) -> Section | None:
    """Draw the error of each layer, how often experts were chosen, and which are left."""
    if not entries:
        return None
    by_layer = [(entry["layer"], entry) for entry in entries]
    kept = [[float(number in entry["kept"]) for number in range(entry["experts_before"])] for entry in entries]
    charts = [
        before_and_after("Held-out error of the experts' output", by_layer, ("without refit", "with refit")),
        heat_map("Tokens sent to each expert before", "expert", [e["tokens"] for e in entries], y_label="layer"),
        heat_map("Experts that are left", "expert", kept, y_label="layer"),
    ]
    head = ("layer", "experts before", "after", "error without", "error with refit", "refitted", "kept")
    keys = ("layer", "experts_before", "experts_after", "error_before", "error_after", "refitted")
    rows = [(*(entry.get(key) for key in keys), ", ".join(map(str, entry["kept"]))) for entry in entries]
    merged = [(entry["layer"], f"{gone} into {heir}") for entry in entries for gone, heir in entry["merged"]]
    intro = paragraph(
        "The error is that of what all experts of a layer write together on held-out tokens, relative to what they "
        "wrote when all were there, without and with the refit of those that are left."
    )
    details = [folded("All layers", table("Experts", head, rows))]
    if merged:
        details.append(folded("Merged experts", table("Merged experts", ("layer", "merged"), merged)))
    return Section("Fewer experts", join([intro, drawn(charts), *details]))
