"""`neuromeld evaluate`: one model, or several side by side."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from neuromeld.cli import options as o
from neuromeld.cli.console import console
from neuromeld.cli.generated_options import with_settings
from neuromeld.modalities.compare import evaluate
from neuromeld.modalities.request import EvaluationRequest
from neuromeld.report.measured import records_to_fill, save_measurements
from neuromeld.runtime.memory import peak_rss_bytes

FORMATS = {
    "parameters": "{:,}",
    "bytes_on_disk": "{:,}",
    "flops_per_token": "{:,}",
    "bytes_per_token": "{:,}",
    "perplexity": "{:.3f}",
    "bits_per_byte": "{:.4f}",
    "tokens_per_image": "{:,}",
    "loss": "{:.4f}",
    "bleu": "{:.2f}",
    "chrf": "{:.2f}",
    "word_error_rate": "{:.4f}",
    "divergence": "{:.4f}",
    "agreement": "{:.4f}",
    "cosine": "{:.4f}",
    "correlation": "{:.4f}",
    "prefill_tokens_per_second": "{:.1f}",
    "decode_tokens_per_second": "{:.1f}",
}


@with_settings("evaluation", EvaluationRequest, "What to measure")
@o.takes_machine
def evaluate_command(
    models: Annotated[
        list[str], typer.Argument(help="Models to measure; the first is what the others are compared to.")
    ],
    evaluation: EvaluationRequest,
    machine: o.Machine,
    save: Annotated[
        bool, typer.Option("--save", help="Keep the numbers in the record, card and report of all but the first.")
    ] = False,
    as_json: o.Json = False,
) -> None:
    """Measure perplexity (of a masked language model, on hidden tokens), accuracy on tasks or on images, translations
    or transcripts, size and cost; with --against how close they are to another model."""
    records = records_to_fill(models) if save else {}
    results = evaluate(models, evaluation, progress=True, **machine.arguments)
    save_measurements(records, results[models[0]], results)
    if as_json:
        first = results[models[0]]
        extra = {"peak_rss_bytes": peak_rss_bytes()}
        typer.echo(json.dumps(first | extra if len(models) == 1 else {"models": results} | extra))
        return
    _print(results)


def _print(results: dict[str, dict[str, Any]]) -> None:
    names = list(results)
    first = results[names[0]]
    table = Table("", *(Path(name).name if len(names) > 1 else name for name in names))
    for _ in names[1:]:
        table.add_column("ratio")
    for key, form in FORMATS.items():
        if key in first:
            numbers = [results[name].get(key) for name in names]
            ratios = [_ratio(key, results[name], first) for name in names[1:]]
            table.add_row(key.replace("_", " "), *("" if n is None else form.format(n) for n in numbers), *ratios)
    for task, entry in first.get("tasks", {}).items():
        values = [results[name]["tasks"][task] for name in names]
        table.add_row(
            f"{task} ({entry['protocol']['metric']})",
            *(f"{value['accuracy']:.4f}" for value in values),
            *(_interval(value["retained"]) for value in values[1:]),
        )
    if "tasks" in first and names[1:]:
        retained = [_interval(results[name]["retained_performance"]) for name in names[1:]]
        table.add_row("retained performance", *("" for _ in names), *retained)
    out = console()
    out.print(table)
    if "texts" in first:
        out.print(_by_text(results))
    if "protocol" in first:
        out.print("protocol: " + ", ".join(f"{k} {v}" for k, v in first["protocol"].items()))
    for name in names:
        for phase in ("prefill", "decode"):
            if (found := results[name].get("speed", {}).get(phase)) is not None:
                spread = f"{found['low']:.1f} to {found['high']:.1f}"
                out.print(f"{phase} of {Path(name).name}: {spread} tokens per second over the repeats")
    out.print(f"peak memory of this process: {peak_rss_bytes() / 2**30:.2f} GiB")
    for task, entry in first.get("tasks", {}).items():
        out.print(f"{task}: " + ", ".join(f"{k} {v}" for k, v in entry["protocol"].items()))


def _by_text(results: dict[str, dict[str, Any]]) -> Table:
    """Return the loss on each text, and what is lost of it to the first model, where tokens are the same."""
    names = list(results)
    table = Table("", *(Path(name).name for name in names), title="loss by text, nats per token (bits per byte)")
    for _ in names[1:]:
        table.add_column("excess loss")
    for entries in zip(*(results[name]["texts"] for name in names), strict=True):
        first = entries[0]
        excess = [
            f"{entry['loss'] - first['loss']:.4f}" if entry["protocol"]["sha256"] == first["protocol"]["sha256"] else ""
            for entry in entries[1:]
        ]
        table.add_row(first["protocol"]["source"], *map(_loss, entries), *excess)
    return table


def _loss(entry: dict[str, Any]) -> str:
    bits = entry.get("bits_per_byte")
    return f"{entry['loss']:.4f}" + ("" if bits is None else f" ({bits:.4f})")


def _ratio(key: str, result: dict[str, Any], first: dict[str, Any]) -> str:
    """Return a number over that of the first model; nothing for perplexities of other tokens, and over 0."""
    tokens = [found.get("protocol", {}).get("sha256") for found in (result, first)]
    if not first[key] or key not in result or (key == "perplexity" and tokens[0] != tokens[1]):
        return ""
    return f"{result[key] / first[key]:.3f}"


def _interval(retained: dict[str, float] | None) -> str:
    if retained is None:
        return ""
    return f"{retained['ratio']:.3f} ({retained['low']:.3f} to {retained['high']:.3f})"
