"""The model card of a compressed checkpoint."""

from pathlib import Path
from typing import Any

import yaml
from jinja2 import StrictUndefined, Template

from neuromeld.checkpoint.loading import load_lines, pipeline

TEMPLATE = Path(__file__).parent / "card.md.jinja"


def render_card(record: dict[str, Any]) -> str:
    """The README.md of a checkpoint: YAML front matter, then what was done and how to load the result.

    `record` is the content of `record.json`.  Of its optional keys, `source_kind` ("hub") makes the source the
    `base_model`, `license` is passed on, and `evaluation`, a list of measured `Perplexity` as dictionaries, each with
    an optional `perplexity_before`, becomes the `model-index`; `recovery` tells of recovery tuning.
    """
    template = Template(
        TEMPLATE.read_text(encoding="utf-8"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    name = Path(record["source"].removeprefix("package:")).name
    card: str = template.render(
        record,
        front_matter=yaml.safe_dump(_front_matter(record, name), sort_keys=False, allow_unicode=True),
        name=name,
        recipe_yaml=yaml.safe_dump(record["recipe"], sort_keys=False),
        load_lines=load_lines(record),
        changes=record.get("changes", []),
        bytes_on_disk=record.get("bytes_on_disk"),
        evaluation=record.get("evaluation", []),
        recovery=record.get("recovery"),
    )
    return card


def _front_matter(record: dict[str, Any], name: str) -> dict[str, Any]:
    matter: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": pipeline(record)}
    if record.get("source_kind") == "hub":
        matter["base_model"] = record["source"]
    if record.get("license"):
        matter["license"] = record["license"]
    matter["tags"] = ["neuromeld", "compressed", record["model_type"]]
    if record.get("evaluation"):
        results = [
            {
                "task": {"type": "text-generation"},
                "dataset": {"name": measured["protocol"]["source"], "type": measured["protocol"]["source"]},
                "metrics": [{"type": "perplexity", "value": measured["perplexity"]}],
            }
            for measured in record["evaluation"]
        ]
        matter["model-index"] = [{"name": f"{name}-neuromeld", "results": results}]
    return matter
