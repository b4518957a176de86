"""The part of a report that shows what became of one sublayer of every layer."""

from collections.abc import Sequence
from typing import Any

from neuromeld.drawing.charts import Series, lines
from neuromeld.drawing.section import Section, folded, join, paragraph, table
from neuromeld.stages.fit_charts import before_and_after, drawn, learning_curve, log10, merge_maps

UNITS = {"width": "neurons", "num_kv_heads": "key-value heads"}
"""What a size counts, in words."""


def sublayer_section(entries: Sequence[dict[str, Any]] | None, title: str, key: str) -> Section | None:
    """Draw sizes, errors and merges by layer."""
    units = UNITS[key]
    if not entries:
        return None
    by_layer = [(entry["layer"], entry) for entry in entries]
    sizes = [
        Series(when, [(layer, entry[f"{key}_{when}"]) for layer, entry in by_layer], before=when == "before")
        for when in ("before", "after")
    ]
    condition = Series("condition", [(layer, log10(entry.get("condition"))) for layer, entry in by_layer])
    uniform = len({entry[f"{key}_after"] for entry in entries}) == 1
    charts = [
        before_and_after("Held-out error of the output", by_layer, ("without compensation", "with compensation")),
        None if uniform else lines(f"How many {units} are left", "layer", units, sizes),
        lines("Condition of the compensation", "layer", "log10 of the condition number", [condition], zero=False),
    ]
    keys = (f"{key}_before", f"{key}_after", "error_before", "error_after", "ridge", "condition")
    head = ("layer", f"{units} before", "after", "error without", "error with compensation", "ridge", "condition")
    rows = [(_place(entry), *(entry.get(k) for k in keys)) for entry in entries]
    intro = paragraph(
        "The error is that of a layer's output on held-out tokens, relative to the output itself, without and with "
        "the compensation fitted for what was taken away."
    )
    maps = merge_maps([(f"layer {entry['layer']}", entry) for entry in entries])
    return Section(title, join([intro, drawn(charts), maps, folded("All layers", table(title, head, rows))]))


def _place(entry: dict[str, Any]) -> int | str:
    layer: int = entry["layer"]
    return f"{layer}, expert {entry['expert']}" if "expert" in entry else layer


def learned_section(learned: dict[str, Any] | None, title: str) -> Section | None:
    """Draw how far predictions were from the whole model's while units were learned, and the scores by layer."""
    if not learned:
        return None
    places = (("lowest tenth", 1), ("median", 5), ("highest tenth", 9))
    scores = [
        Series(name, [(entry["layer"], entry["deciles"][place]) for entry in learned["scores"]])
        for name, place in places
    ]
    intro = paragraph(
        "Which units stay was learned: every unit has a score, and the choice under the budget was trained so that "
        "predictions stay near those of the whole model, before anything was taken away or compensated."
    )
    charts = [
        learning_curve(learned["looks"], "the choice", "the same"),
        lines("Scores of the units", "layer", "score", scores, zero=False),
    ]
    return Section(f"{title}: what was learned", join([intro, drawn(charts)]))
