"""`neuromeld evaluate`: one model, or several side by side."""

import gc
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForMaskedLM, PreTrainedModel

from neuromeld.archs.spec import Inputs
from neuromeld.checkpoint import render_card, save_record
from neuromeld.checkpoint.source import locate
from neuromeld.cli import options as o
from neuromeld.cli.quality import MEASURES
from neuromeld.cli.wanted import EvalData
from neuromeld.data.text import check_vocabulary, token_windows
from neuromeld.errors import UserInputError
from neuromeld.evaluate import (
    Retained,
    TaskScores,
    bytes_on_disk,
    bytes_per_token,
    evaluate_tasks,
    flops_per_token,
    measure_speed,
    perplexity,
    pseudo_perplexity,
    retained_performance,
    unique_parameters,
)
from neuromeld.modalities import inputs_of
from neuromeld.model.native.classes import auto_class
from neuromeld.report import load_drawable, save_report
from neuromeld.report.record import with_measurements
from neuromeld.runtime.memory import peak_rss_bytes

FORMATS = {
    "parameters": "{:,}",
    "bytes_on_disk": "{:,}",
    "flops_per_token": "{:,}",
    "bytes_per_token": "{:,}",
    "perplexity": "{:.3f}",
    "tokens_per_image": "{:,}",
    "loss": "{:.4f}",
    "bleu": "{:.2f}",
    "chrf": "{:.2f}",
    "word_error_rate": "{:.4f}",
    "prefill_tokens_per_second": "{:.1f}",
    "decode_tokens_per_second": "{:.1f}",
}

TEXT = "wikipedia-sample"
OPTION_INPUTS: dict[str, tuple[Inputs, ...]] = {
    "text": ("tokens",),
    "tasks": ("tokens",),
    "speed": ("tokens",),
    "images": ("images",),
    "num_images": ("images",),
    "pairs": ("pairs",),
    "speech": ("speech",),
    "num_examples": ("pairs", "speech"),
}
"""What a model has to read for an option to mean something."""


def evaluate_command(
    models: Annotated[
        list[str], typer.Argument(help="Models to measure; the first is what the others are compared to.")
    ],
    text: Annotated[
        str | None,
        typer.Option(help="A named text, or file:PATH; its evaluation split is used.", show_default="wikipedia-sample"),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            help="Named images, or file:FOLDER; their evaluation split is used.", show_default="fashion-mnist"
        ),
    ] = None,
    num_images: Annotated[int | None, typer.Option(help="Evaluation images, from the first; all if not given.")] = None,
    pairs: Annotated[
        str | None, typer.Option(help="Named pairs of texts, or file:PATH; their evaluation split is used.")
    ] = None,
    speech: Annotated[
        str | None, typer.Option(help="file:FOLDER with recordings; their evaluation split is used.")
    ] = None,
    num_examples: Annotated[
        int | None, typer.Option(help="Evaluation pairs or recordings, from the first; all if not given.")
    ] = None,
    tokens: Annotated[int, typer.Option(help="Evaluation tokens in all.")] = 32768,
    seqlen: Annotated[int, typer.Option(help="Tokens in one window.")] = 512,
    speed: Annotated[
        bool, typer.Option("--speed", help="Also measure prefill and decode speed, in alternation.")
    ] = False,
    batch_size: Annotated[int | None, typer.Option(help="Of --speed: sequences at a time.", show_default="1")] = None,
    prompt_tokens: Annotated[
        int | None, typer.Option(help="Of --speed: tokens that are read.", show_default="512")
    ] = None,
    new_tokens: Annotated[
        int | None, typer.Option(help="Of --speed: tokens that are written.", show_default="32")
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Tasks of lm-evaluation-harness, with commas between: arc_easy,piqa.")
    ] = None,
    include_path: Annotated[Path | None, typer.Option(help="A folder with further tasks in YAML.")] = None,
    limit: Annotated[int | None, typer.Option(help="Questions of each task, from the first; all if not given.")] = None,
    save: Annotated[
        bool, typer.Option("--save", help="Keep the numbers in the record, card and report of all but the first.")
    ] = False,
    device: o.Device = "cpu",
    dtype: o.DtypeOption = None,
    allow_pickle: o.AllowPickle = False,
    as_json: o.Json = False,
) -> None:
    """Measure perplexity (of a masked language model, on hidden tokens), accuracy on tasks or on images, translations
    or transcripts, size and cost."""
    o.quiet_transformers()
    o.check_device(device)
    if tasks is None and (include_path or limit is not None):
        raise UserInputError("--include-path and --limit are for --tasks; name the tasks, or leave them out")
    sizes = {"batch_size": batch_size, "prompt_tokens": prompt_tokens, "new_tokens": new_tokens}
    request = {key: value for key, value in sizes.items() if value is not None}
    if request and not speed:
        raise UserInputError(
            "--batch-size, --prompt-tokens and --new-tokens are for --speed; add it, or leave them out"
        )
    records = {name: load_drawable(Path(name)) for name in models[1:]} if save else {}
    if save and not records:
        raise UserInputError("--save compares: give the original model first, then those that compress wrote")
    scores: dict[str, TaskScores] = {}
    results: dict[str, dict[str, Any]] = {}
    loaded: dict[str, PreTrainedModel] = {}
    kinds = {inputs_of(locate(name, allow_pickle=allow_pickle).config()) for name in models}
    if len(kinds) > 1:
        raise UserInputError(f"models that read {' and '.join(sorted(kinds))} have nothing to be compared by")
    for name in models:
        source = locate(name, allow_pickle=allow_pickle)
        inputs = inputs_of(source.config())
        data = {"images": images, "pairs": pairs, "speech": speech}
        numbers = {"num_images": num_images, "num_examples": num_examples}
        _check_options(name, inputs, text=text, tasks=tasks, speed=speed or None, **data, **numbers)
        if inputs in MEASURES:
            model = source.load(o.torch_dtype(dtype), device)
            wanted = EvalData(data[inputs], num_images if inputs == "images" else num_examples)
            results[name], answers = MEASURES[inputs](model, source, wanted)
            scores |= {name: answers} if answers else {}
            continue
        windows = token_windows(text or TEXT, source.tokenizer(), split="evaluation", num_tokens=tokens, seqlen=seqlen)
        check_vocabulary(windows, source.config().get_text_config().vocab_size)
        model = source.load(o.torch_dtype(dtype), device)
        if tasks is not None:
            names = [task.strip() for task in tasks.split(",")]
            scores[name] = evaluate_tasks(model, source.tokenizer(), names, include_path=include_path, limit=limit)
        if auto_class(type(model)) is AutoModelForMaskedLM:
            measured = pseudo_perplexity(model, windows, source.tokenizer(), progress=True)
        else:
            measured = perplexity(model, windows, progress=True)
        results[name] = {
            "parameters": unique_parameters(model),
            "bytes_on_disk": bytes_on_disk(source.folder),
            "flops_per_token": flops_per_token(model, context=seqlen),
            **({"bytes_per_token": bytes_per_token(model, context=seqlen)} if model.can_generate() else {}),
            "perplexity": measured.perplexity,
            "tokens": measured.tokens,
            "protocol": measured.protocol,
        }
        if speed:
            loaded[name] = model
        del model
        gc.collect()
    for name, rate in measure_speed(loaded, **request, seed=0).items() if speed else ():
        results[name] |= {
            "prefill_tokens_per_second": rate.prefill.median,
            "decode_tokens_per_second": rate.decode.median,
            "speed": asdict(rate),
        }
    for name, found in scores.items():
        results[name] |= _retained(scores[models[0]], found, is_first=name == models[0])
    for name, record in records.items():
        record = with_measurements(record, results[models[0]], results[name])
        save_record(Path(name), record, card=render_card(record))
        save_report(Path(name))
    if as_json:
        first = results[models[0]]
        extra = {"peak_rss_bytes": peak_rss_bytes()}
        typer.echo(json.dumps(first | extra if len(models) == 1 else {"models": results} | extra))
        return
    _print(results)


def _check_options(name: str, inputs: Inputs, **given: object) -> None:
    """`UserInputError` for an option that a model with these inputs has no use for."""
    for option, value in given.items():
        if value is not None and inputs not in OPTION_INPUTS[option]:
            raise UserInputError(
                f"--{option.replace('_', '-')} is for models that read {', '.join(OPTION_INPUTS[option])}; "
                f"{name} reads {inputs}"
            )


def _retained(reference: TaskScores, scores: TaskScores, *, is_first: bool) -> dict[str, Any]:
    """The accuracies of one model and, unless it is the first, what it retains of the first's."""
    tasks: dict[str, dict[str, Any]] = {
        task: {"accuracy": score.accuracy, "protocol": score.protocol} for task, score in scores.items()
    }
    if is_first:
        return {"tasks": tasks}
    for task, entry in tasks.items():
        entry["retained"] = _bounds(retained_performance({task: reference[task]}, {task: scores[task]}))
    return {"tasks": tasks, "retained_performance": _bounds(retained_performance(reference, scores))}


def _bounds(retained: Retained | None) -> dict[str, float] | None:
    return None if retained is None else asdict(retained)


def _print(results: dict[str, dict[str, Any]]) -> None:
    names = list(results)
    first = results[names[0]]
    table = Table("", *(Path(name).name if len(names) > 1 else name for name in names))
    for _ in names[1:]:
        table.add_column("ratio")
    for key, form in FORMATS.items():
        if key in first:
            values = [results[name][key] for name in names]
            table.add_row(
                key.replace("_", " "), *map(form.format, values), *(f"{value / values[0]:.3f}" for value in values[1:])
            )
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
    console = Console()
    console.print(table)
    if "protocol" in first:
        console.print("protocol: " + ", ".join(f"{k} {v}" for k, v in first["protocol"].items()), highlight=False)
    for name in names:
        for phase in ("prefill", "decode"):
            if (found := results[name].get("speed", {}).get(phase)) is not None:
                spread = f"{found['low']:.1f} to {found['high']:.1f}"
                console.print(
                    f"{phase} of {Path(name).name}: {spread} tokens per second over the repeats", highlight=False
                )
    console.print(f"peak memory of this process: {peak_rss_bytes() / 2**30:.2f} GiB", highlight=False)
    for task, entry in first.get("tasks", {}).items():
        console.print(f"{task}: " + ", ".join(f"{k} {v}" for k, v in entry["protocol"].items()), highlight=False)


def _interval(retained: dict[str, float] | None) -> str:
    if retained is None:
        return ""
    return f"{retained['ratio']:.3f} ({retained['low']:.3f} to {retained['high']:.3f})"
