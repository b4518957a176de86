"""`neuromeld evaluate`: one model, or several side by side."""

import gc
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel

from neuromeld.cli import options as o
from neuromeld.compress import peak_rss_bytes
from neuromeld.evaluate import bytes_on_disk, flops_per_token, measure_speed, perplexity, unique_parameters
from neuromeld.sources import locate
from neuromeld.text import check_vocabulary, token_windows

FORMATS = {
    "parameters": "{:,}",
    "bytes_on_disk": "{:,}",
    "flops_per_token": "{:,}",
    "perplexity": "{:.3f}",
    "prefill_tokens_per_second": "{:.1f}",
    "decode_tokens_per_second": "{:.1f}",
}


def evaluate_command(
    models: Annotated[
        list[str], typer.Argument(help="Models to measure; the first is what the others are compared to.")
    ],
    text: Annotated[str, typer.Option(help="A named text, or file:PATH; its evaluation split is used.")] = (
        "wikipedia-sample"
    ),
    tokens: Annotated[int, typer.Option(help="Evaluation tokens in all.")] = 32768,
    seqlen: Annotated[int, typer.Option(help="Tokens in one window.")] = 512,
    speed: Annotated[
        bool, typer.Option("--speed", help="Also measure prefill and decode speed, in alternation.")
    ] = False,
    device: o.Device = "cpu",
    dtype: o.DtypeOption = None,
    allow_pickle: o.AllowPickle = False,
    as_json: o.Json = False,
) -> None:
    """Measure perplexity, size and cost."""
    o.quiet_transformers()
    o.check_device(device)
    results: dict[str, dict[str, Any]] = {}
    loaded: dict[str, PreTrainedModel] = {}
    for name in models:
        source = locate(name, allow_pickle=allow_pickle)
        windows = token_windows(text, source.tokenizer(), split="evaluation", num_tokens=tokens, seqlen=seqlen)
        check_vocabulary(windows, source.config().get_text_config().vocab_size)
        model = source.load(o.torch_dtype(dtype), device)
        measured = perplexity(model, windows, progress=True)
        results[name] = {
            "parameters": unique_parameters(model),
            "bytes_on_disk": bytes_on_disk(source.folder),
            "flops_per_token": flops_per_token(model, context=seqlen),
            "perplexity": measured.perplexity,
            "tokens": measured.tokens,
            "protocol": measured.protocol,
        }
        if speed:
            loaded[name] = model
        del model
        gc.collect()
    for name, rate in measure_speed(loaded, seed=0).items() if speed else ():
        results[name] |= {
            "prefill_tokens_per_second": rate.prefill.median,
            "decode_tokens_per_second": rate.decode.median,
            "speed": asdict(rate),
        }
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
            values = [results[name][key] for name in names]
            table.add_row(
                key.replace("_", " "), *map(form.format, values), *(f"{value / values[0]:.3f}" for value in values[1:])
            )
    console = Console()
    console.print(table)
    console.print("protocol: " + ", ".join(f"{k} {v}" for k, v in first["protocol"].items()), highlight=False)
