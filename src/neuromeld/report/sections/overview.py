"""Say what was done, in plain words, and show the numbers that come first."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from neuromeld.drawing.section import Record, Section, folded, item, join, number, paragraph, table
from neuromeld.stages import STAGES


@dataclass(frozen=True)
class Tile:
    """One number at the top of the page."""

    value: str
    what: str
    more: str = ""


def name_of(record: Record) -> str:
    """Return the model's name without its path."""
    return Path(str(record.get("source", "model")).removeprefix("package:")).name


def tiles(record: Record) -> list[Tile]:
    """Return the numbers a reader looks for first, as far as the record holds them."""
    found = []
    if kept := kept_ratio(record):
        found.append(Tile(f"{kept:.1%}", "of the parameters", f"{1 - kept:.1%} saved"))
    for measured in record.get("evaluation", [])[:1]:
        if (lost := excess_loss(measured)) is not None:
            more = f"perplexity {measured['perplexity_before']:.2f} → {measured['perplexity']:.2f}"
            found.append(Tile(f"{lost:.3f}", "nats of excess loss", more))
        elif (bits := bits_per_byte(measured)) is not None:
            found.append(Tile(f"{bits[1]:.3f}", "bits per byte", f"{bits[0]:.3f} before"))
    if "hidden_size_after" in record:
        found.append(Tile(number(record["hidden_size_after"]), "hidden size", f"of {record['hidden_size_before']}"))
    if "bytes_on_disk" in record:
        found.append(Tile(f"{record['bytes_on_disk'] / 1e6:,.0f} MB", "on disk", str(record.get("dtype", ""))))
    if "format" in record:
        stock = record["format"] == "stock"
        found.append(Tile(record["format"], "checkpoint", "plain transformers" if stock else "with neuromeld's code"))
    return found


def kept_ratio(record: Record) -> float | None:
    """Return the parameters after over those before."""
    ratio = record.get("kept_ratio")
    return None if ratio is None else float(ratio)


def excess_loss(measured: dict[str, Any]) -> float | None:
    """`ln(perplexity / perplexity before)`, in nats; None where the perplexity before was not measured."""
    before = measured.get("perplexity_before")
    return None if before is None else math.log(measured["perplexity"] / before)


def bits_per_byte(measured: dict[str, Any]) -> tuple[float, float] | None:
    """Return the bits per byte before and after; None where both were not measured."""
    found = measured.get("bits_per_byte_before"), measured.get("bits_per_byte")
    return None if None in found else found  # type: ignore[return-value]


def summary(record: Record) -> Section | None:
    """Say in one sentence each what was done to the model."""
    if "source" not in record:
        return None
    sentences = [item("{}", change.replace("->", "→")) for change in record.get("changes", [])]
    sentences += [sentence for stage in STAGES for sentence in stage.sentences(record)]
    if "recovery" in record:
        sentences.append(item("The result was trained a little to recover."))
    kept = kept_ratio(record)
    intro = "<code>{source}</code>"
    intro += " is a {model_type} model." if "model_type" in record else "."
    if kept is not None and "parameters_after" in record:
        intro += " {after} of its {before} parameters are left ({kept})."
    body = [
        paragraph(
            intro,
            source=record["source"],
            model_type=record.get("model_type"),
            after=number(record.get("parameters_after")),
            before=number(record.get("parameters_before")),
            kept="" if kept is None else f"{kept:.1%}",
        ),
        Markup('<ul class="steps">{}</ul>').format(join(sentences)) if sentences else None,
    ]
    if "seconds" in record and "peak_rss_bytes" in record:
        body.append(
            paragraph(
                "It took {seconds} s and at most {memory} GB of memory.",
                seconds=f"{record['seconds']:,.0f}",
                memory=f"{record['peak_rss_bytes'] / 1e9:.1f}",
            )
        )
    if phases := record.get("seconds_by_phase"):
        passes = record.get("passes_by_phase", {})
        rows = [(phase, f"{seconds:,.1f}", number(passes.get(phase))) for phase, seconds in phases.items()]
        head = ("phase", "seconds", "processor time, in plain forward passes over the calibration data")
        body.append(folded("Where the time went", table("Time by phase", head, rows)))
    return Section("What was done", join(body))


def warnings(record: Record) -> Section | None:
    """Show what the plan warned of."""
    if not record.get("warnings"):
        return None
    return Section("Warnings", join(Markup('<p class="warning">{}</p>').format(text) for text in record["warnings"]))


def sizes(record: Record) -> Section | None:
    """Show everything that is counted, before and after."""
    before, after = record.get("sizes_before"), record.get("sizes_after")
    counted: list[tuple[str, int | None, int | None]] = [
        ("parameters", record.get("parameters_before"), record.get("parameters_after")),
        ("bytes on disk", record.get("bytes_on_disk_before"), record.get("bytes_on_disk")),
    ]
    if before and after:
        counted += [
            ("layers", len(before["ffn"]), len(after["ffn"])),
            ("hidden size", before["hidden"], after["hidden"]),
            ("hidden neurons of all FFNs", sum(before["ffn"]), sum(after["ffn"])),
            ("key-value heads of all layers", sum(before["num_kv_heads"]), sum(after["num_kv_heads"])),
        ]
    rows = [
        (name, old, new, f"{new / old:.1%}" if old and new is not None else None)
        for name, old, new in counted
        if old is not None or new is not None
    ]
    return Section("Before and after", table("Sizes", ("", "before", "after", "kept"), rows)) if rows else None
