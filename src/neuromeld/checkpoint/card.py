"""The model card of a compressed checkpoint."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult
from huggingface_hub.repocard_data import eval_results_to_model_index
from jinja2 import StrictUndefined, Template

from neuromeld.checkpoint.companions import CARD_KEYS
from neuromeld.checkpoint.export.form import recorded_rows
from neuromeld.checkpoint.loading import load_lines, pipeline
from neuromeld.errors import CheckpointError

TEMPLATE = Path(__file__).parent / "card.md.jinja"


def render_card(record: dict[str, Any]) -> str:
    """Return the README.md of a checkpoint: YAML front matter, then what was done and how to load the result.

    `record` is the content of `record.json`.  Of its optional keys, `source_kind` ("hub") makes the source the
    `base_model`, `CARD_KEYS` are passed on, `evaluation`, a list of measured `Perplexity` as dictionaries, each with an
    optional `perplexity_before`, and `tasks`, accuracies by task, become the `model-index`; `recovery` tells of
    recovery tuning.  Raises `CheckpointError` for a record that lacks what every record has.
    """
    try:
        return _render(record)
    except Exception as error:  # a record of another version, or edited by hand, may hold anything
        raise CheckpointError(
            f"the record cannot be made a model card of, as this version of neuromeld did not write it: {error!r}"
        ) from error


@cache
def _template() -> Template:
    template: Template = Template(
        TEMPLATE.read_text(encoding="utf-8"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return template


def _render(record: dict[str, Any]) -> str:
    name = Path(record["source"].removeprefix("package:")).name
    card: str = _template().render(
        record,
        front_matter=yaml.safe_dump(_front_matter(record, name), sort_keys=False, allow_unicode=True),
        name=name,
        recipe_yaml=yaml.safe_dump(record["recipe"], sort_keys=False),
        load_lines=load_lines(record),
        engines=recorded_rows(record),
        changes=record.get("changes", []),
        bytes_on_disk=record.get("bytes_on_disk"),
        evaluation=record.get("evaluation", []),
        tasks=record.get("tasks", {}),
        retained=record.get("retained_performance"),
        recovery=record.get("recovery"),
        requires=record.get("requires"),
        warnings=record.get("warnings", []),
    )
    return card


def _front_matter(record: dict[str, Any], name: str) -> dict[str, Any]:
    matter: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": pipeline(record)}
    facts = {key: record[key] for key in CARD_KEYS if record.get(key)}
    matter |= facts | ({"base_model": record["source"]} if record.get("source_kind") == "hub" else {})
    matter["tags"] = ["neuromeld", "compressed", record["model_type"]]
    if results := _results(record):
        matter["model-index"] = eval_results_to_model_index(f"{name}-neuromeld", results)
    return matter


def _results(record: dict[str, Any]) -> list[EvalResult]:
    """Return every measured number of the record in the hub's terms, with the protocol as arguments of the metric."""
    perplexities = [
        _result(measured["protocol"]["source"], "perplexity", measured["perplexity"], measured["protocol"])
        for measured in record.get("evaluation", [])
    ]
    accuracies = [
        _result(task, "accuracy", score["accuracy"], score["protocol"])
        for task, score in record.get("tasks", {}).items()
    ]
    return perplexities + accuracies


def _result(dataset: str, metric: str, value: float, protocol: dict[str, Any]) -> EvalResult:
    return EvalResult(
        task_type="text-generation",
        dataset_type=dataset,
        dataset_name=dataset,
        dataset_split=protocol.get("split"),
        metric_type=metric,
        metric_value=value,
        metric_args=protocol,
    )
