"""The parts of a report that show how the residual stream was narrowed."""

import re
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from neuromeld.drawing.charts import Series, lines
from neuromeld.drawing.section import Record, Section, folded, join, paragraph, table
from neuromeld.stages.fit_charts import before_and_after, drawn, learning_curve, log10, merge_maps


def runs(record: Record) -> Section | None:
    """Draw the runs of layers that share a basis: the energy it keeps, and the transport that made it."""
    found = record.get("runs")
    if not found:
        return None
    moved = any(run.get("transport") for run in found)
    rows = []
    for run in found:
        transport = run.get("transport") or {}
        row = [f"from layer {run['first_layer']}", f"{run['energy_kept']:.2%}"]
        extra = [transport.get(key) for key in ("status", "iterations", "marginal_error")] if moved else []
        rows.append([*row, *extra])
    head = ["run of layers", "energy kept", *(["transport", "iterations", "marginal error"] if moved else [])]
    energy = Series("energy kept", [(run["first_layer"], 100 * run["energy_kept"]) for run in found])
    errors = Series(
        "marginal error",
        [(run["first_layer"], log10((run.get("transport") or {}).get("marginal_error"))) for run in found],
    )
    charts = [
        lines("Energy kept by run of layers", "first layer of the run", "% of the energy", [energy], zero=False),
        lines("Marginal error of the transport", "first layer of the run", "log10 of the error", [errors], zero=False),
        _spectrum(found, record.get("hidden_size_after")),
    ]
    return Section(
        "The residual stream",
        join(
            [
                paragraph(
                    "Energy kept is the share of the stream's second moment, as the norms hand it on, that the narrow "
                    "stream can reproduce on the calibration text."
                ),
                drawn(charts),
                table("Runs of layers that share a basis", head, rows),
                merge_maps([(f"from layer {run['first_layer']}", run) for run in found]),
            ]
        ),
    )


def learned(record: Record) -> Section | None:
    """Draw how far predictions were from the whole model's while directions were learned."""
    looks = record.get("directions_learned")
    if not looks:
        return None
    said = paragraph(
        "The directions that the narrow stream keeps were trained, from the leading ones on, so that predictions stay "
        "near those of the whole model, with all weights as they were."
    )
    chart = learning_curve(looks, "projected stream", "the same")
    return Section("The residual stream: what was learned", join([said, drawn([chart])]))


def refits(record: Record) -> Section | None:
    """Held-out error of what each norm hands on, before and after its consumers were fitted again."""
    found = record.get("refits")
    if not found:
        return None
    kinds: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for path, entry in found.items():
        if place := re.search(r"\.(\d+)\.(.+)$", path):
            kinds.setdefault(place[2], []).append((int(place[1]), entry))
    charts = [
        before_and_after(f"Held-out error: {kind}", entries, ("before the refit", "after"))
        for kind, entries in sorted(kinds.items())
    ]
    rows = [
        (path, entry["error_before"], entry["error_after"], entry.get("ridge"))
        for path, entry in sorted(found.items(), key=lambda item: _natural(item[0]))
    ]
    return Section(
        "The consumer refit",
        join(
            [
                paragraph(
                    "Mean square of what a norm hands on that the narrow stream misses, over its own, on calibration "
                    "tokens that the refit did not see. Where it would have risen, the refit was not kept."
                ),
                drawn(charts),
                folded("All norms", table("Held-out error", ("norm", "before", "after", "ridge"), rows)),
            ]
        ),
    )


def _spectrum(found: Sequence[dict[str, Any]], kept: int | None) -> Markup | None:
    """Draw how much of the stream's energy its leading directions hold; the mark is at the width that is kept."""
    series = [
        Series(f"from layer {run['first_layer']}", [(rank, 100 * share) for rank, share in run["spectrum"]])
        for run in found
        if "spectrum" in run
    ]
    title = "Energy of the leading directions (dashed: the width kept)"
    return lines(title, "directions", "% of the energy", series, zero=False, mark=kept) if series else None


def _natural(path: str) -> list[tuple[int, str]]:
    """Layer 2 before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in path.split(".")]
