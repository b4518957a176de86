"""Layer by layer: how well each run of layers, norm, feed-forward network and attention was kept."""

import math
import re
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from neuromeld.drawing.charts import Series, heat_map, lines
from neuromeld.drawing.section import Record, Section, figures, folded, join, paragraph, table


def runs(record: Record) -> Section | None:
    """The runs of layers that share a basis: the energy it keeps, and the transport that made it."""
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
        [(run["first_layer"], _log10((run.get("transport") or {}).get("marginal_error"))) for run in found],
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
                _drawn(charts),
                table("Runs of layers that share a basis", head, rows),
                _merges([(f"from layer {run['first_layer']}", run) for run in found]),
            ]
        ),
    )


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
        _before_and_after(f"Held-out error: {kind}", entries, ("before the refit", "after"))
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
                _drawn(charts),
                folded("All norms", table("Held-out error", ("norm", "before", "after", "ridge"), rows)),
            ]
        ),
    )


def feed_forward(record: Record) -> Section | None:
    """The feed-forward networks: their widths, and the error of their output without and with compensation."""
    return _sublayers(record.get("ffn"), "Feed-forward networks", "width", "neurons")


def heads(record: Record) -> Section | None:
    """The same for attention, in key-value groups."""
    return _sublayers(record.get("heads"), "Attention heads", "groups", "key-value groups")


def _sublayers(entries: Sequence[dict[str, Any]] | None, title: str, key: str, units: str) -> Section | None:
    if not entries:
        return None
    by_layer = [(entry["layer"], entry) for entry in entries]
    sizes = [
        Series(when, [(layer, entry[f"{key}_{when}"]) for layer, entry in by_layer], before=when == "before")
        for when in ("before", "after")
    ]
    condition = Series("condition", [(layer, _log10(entry.get("condition"))) for layer, entry in by_layer])
    uniform = len({entry[f"{key}_after"] for entry in entries}) == 1
    charts = [
        _before_and_after("Held-out error of the output", by_layer, ("without compensation", "with compensation")),
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
    merges = _merges([(f"layer {entry['layer']}", entry) for entry in entries])
    return Section(title, join([intro, _drawn(charts), merges, folded("All layers", table(title, head, rows))]))


def _spectrum(found: Sequence[dict[str, Any]], kept: int | None) -> Markup | None:
    """How much of the stream's energy its leading directions hold; the mark is at the width that is kept."""
    series = [
        Series(f"from layer {run['first_layer']}", [(rank, 100 * share) for rank, share in run["spectrum"]])
        for run in found
        if "spectrum" in run
    ]
    title = "Energy of the leading directions (dashed: the width kept)"
    return lines(title, "directions", "% of the energy", series, zero=False, mark=kept) if series else None


def _merges(entries: Sequence[tuple[str, dict[str, Any]]]) -> Markup | None:
    """Where neurons went that were merged: a map of each plan, and the neurons that merged most."""
    shown = [(name, entry["merges"]) for name, entry in entries if "merges" in entry]
    if not shown:
        return None
    maps = [
        heat_map(f"Where neurons go: {name}", "kept neurons, by block", found["blocks"], y_label="neurons, by block")
        for name, found in shown
    ]
    rows = [
        (f"{name}: neuron {neuron}", target, f"{share:.1%}")
        for name, found in shown
        for neuron, target, share in found["merged"]
    ]
    said = paragraph(
        "Each row of a map is a block of adjacent neurons, and shows what share of it goes to each block of the "
        "neurons that are kept. A bright diagonal is neurons that stay themselves."
    )
    head = ("", "goes into neuron", "with this share of it")
    return join([said, figures(maps), folded("The neurons that merged most", table("Merged neurons", head, rows))])


def _place(entry: dict[str, Any]) -> int | str:
    layer: int = entry["layer"]
    return f"{layer}, expert {entry['expert']}" if "expert" in entry else layer


def _before_and_after(
    title: str, entries: Sequence[tuple[int, dict[str, Any]]], names: tuple[str, str]
) -> Markup | None:
    series = [
        Series(name, [(layer, entry[key]) for layer, entry in entries], before=key == "error_before")
        for name, key in zip(names, ("error_before", "error_after"), strict=True)
    ]
    return lines(title, "layer", "relative error", series)


def _drawn(charts: Sequence[Markup | None]) -> Markup | None:
    return figures(charts) if any(charts) else None


def _log10(value: float | None) -> float | None:
    return math.log10(value) if value is not None and value > 0 else None


def _natural(path: str) -> list[tuple[int, str]]:
    """Layer 2 before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in path.split(".")]
