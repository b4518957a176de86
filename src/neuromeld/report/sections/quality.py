"""Draw how good the smaller model is: measured losses, samples, recovery, and the candidates."""

from markupsafe import Markup

from neuromeld.drawing.charts import Series, bars, lines
from neuromeld.drawing.section import Record, Section, facts, figures, folded, join, number, paragraph, table
from neuromeld.planning.allowed import said_of_loss
from neuromeld.report.sections.overview import bits_per_byte, excess_loss, kept_ratio


def evaluation(record: Record) -> Section | None:
    """Draw the perplexity before and after, and the excess loss for each percent of the parameters that was saved."""
    measured = record.get("evaluation")
    if not measured:
        return None
    kept = kept_ratio(record)
    saved = 100 * (1 - kept) if kept is not None and kept < 1 else None
    rows = []
    for entry in measured:
        lost = excess_loss(entry)
        per_percent = None if lost is None or saved is None else f"{lost / saved:.4f}"
        values = (entry.get("perplexity_before"), entry["perplexity"], lost, *(bits_per_byte(entry) or (None, None)))
        text = entry["protocol"].get("source", "text")
        *shown, bits_before, bits_after = (None if v is None else f"{v:.3f}" for v in values)
        rows.append((text, *shown, per_percent, bits_before, bits_after))
    head = ["text", "perplexity before", "after", "excess loss", "excess loss per 1 % saved"]
    head += ["bits per byte before", "after"]
    return Section(
        "What it lost",
        join(
            [
                paragraph(
                    "Excess loss is ln(perplexity after / perplexity before), in nats per token: 0 is a model as good "
                    "as before. Beside it, divided by the percentage of the parameters that was saved. Where the "
                    "vocabulary changed, perplexities per token cannot be compared, and bits per byte can."
                ),
                paragraph("{said}.", said=_asked(record)) if "max_loss" in record else None,
                table("Perplexity, lower is better", head, rows),
                *(
                    folded(f"How it was measured: {entry['protocol'].get('source', 'text')}", facts(entry["protocol"]))
                    for entry in measured
                ),
            ]
        ),
    )


def _asked(record: Record) -> str:
    said = said_of_loss(record["max_loss"])
    return said[:1].upper() + said[1:]


def tasks(record: Record) -> Section | None:
    """Draw the accuracy on tasks before and after, and what is retained of it."""
    found = record.get("tasks")
    if not found:
        return None
    rows: list[tuple[str, str | None, str | None, str | None]] = [
        (task, f"{entry['accuracy_before']:.4f}", f"{entry['accuracy']:.4f}", _interval(entry.get("retained")))
        for task, entry in found.items()
    ]
    rows.append(("all", None, None, _interval(record.get("retained_performance"))))
    body = [
        paragraph(
            "Retained is accuracy over the original's on the same questions; in brackets its 95 % interval, by "
            "bootstrap over questions."
        ),
        table("Accuracy, higher is better", ("task", "before", "after", "retained"), rows),
        *(folded(f"How it was measured: {task}", facts(entry["protocol"])) for task, entry in found.items()),
    ]
    return Section("What it still knows", join(body))


def _interval(retained: dict[str, float] | None) -> str | None:
    return None if retained is None else f"{retained['ratio']:.3f} ({retained['low']:.3f} to {retained['high']:.3f})"


def samples(record: Record) -> Section | None:
    """Show what both models write after the same prompts."""
    if not record.get("samples"):
        return None
    pairs = [
        Markup(
            '<div class="sample"><p><b>{}</b></p><div class="pair"><div><h3>before</h3><p>{}</p></div>'
            "<div><h3>after</h3><p>{}</p></div></div></div>"
        ).format(*(sample[key].strip("\n") for key in ("prompt", "before", "after")))
        for sample in record["samples"]
    ]
    said = paragraph("What both models write behind the same evaluation text, the likeliest token each time.")
    return Section("Samples", join([said, *pairs]))


def recovery(record: Record) -> Section | None:
    """Draw the training loss over the steps of the recovery, and the held-out loss around it."""
    found = record.get("recovery")
    if not found:
        return None
    measured = found.get("held_out", {})
    losses = [measured.get(key) for key in ("loss_before", "loss_after", "loss_original")]
    curve = [(point["step"], point["loss"]) for point in found.get("loss_curve") or []]
    looks = [(look["step"], look["loss"]) for look in found.get("looks") or []]
    layers = found.get("layers") or []
    series = [Series(name, [(x["layer"], x[f"error_{name}"]) for x in layers]) for name in ("before", "after")]
    charts = [
        lines("Training loss", "step", "loss (nats)", [Series("loss", curve)], zero=False),
        lines("Held-out loss", "step", "loss (nats)", [Series("loss", looks)], zero=False) if looks else None,
        lines("Held-out error of each layer, trained by itself", "layer", "of the stream", series) if layers else None,
    ]
    head = ("", "before recovery", "after", "the original")
    body = [
        table("Held-out loss, in nats", head, [("held-out loss", *losses)]),
        figures(charts) if any(charts) else None,
    ]
    return Section("Recovery", join(body))


def candidates(record: Record) -> Section | None:
    """Draw the candidates that the planner weighed, and the one it took."""
    found = record.get("candidates")
    if not found:
        return None
    names = [("chosen: " if c["chosen"] else "") + c["name"] for c in found]
    series = [
        (name, [c.get(key) for c in found])
        for name, key in (
            ("predicted", "predicted_loss"),
            ("measured", "measured_loss"),
            ("after a short training", "tuned_loss"),
        )
        if any(c.get(key) is not None for c in found)
    ]
    rows = [
        (
            *(c["name"], f"{c['kept_ratio']:.1%}", number(c.get("latency_ratio"))),
            *(number(c["predicted_loss"]), number(c["measured_loss"]), number(c.get("uncertainty")), c["chosen"]),
        )
        for c in found
    ]
    head = ("candidate", "parameters kept", "time kept", "predicted loss", "measured loss", "standard error", "chosen")
    chart = bars("Excess loss of the candidates", "excess loss (nats)", names, series)
    body = [figures([chart]) if chart else None, table("Candidates", head, rows)]
    return Section("Candidates", join(body))
