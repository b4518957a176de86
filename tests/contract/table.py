"""The table `docs/architectures.md`: what every method gives on every architecture, asked of the code.

`PYTHONPATH=src:tests python -m contract.table` writes it.
"""

import importlib
import textwrap
from pathlib import Path

from transformers import CONFIG_MAPPING, PretrainedConfig, PreTrainedModel

from contract.families import BERT, FAMILIES
from neuromeld import make_plan, parse_recipe
from neuromeld.archs import ARCHITECTURES, BY_CLASS, UNSUPPORTED
from neuromeld.errors import UnsupportedModelError, UserInputError
from neuromeld.planning.plan import meta_model

DOCUMENT = Path(__file__).parents[2] / "docs" / "architectures.md"

METHODS = {
    "width": {"hidden_ratio": 0.75},
    "heads": {"num_kv_heads": 1},
    "ffn": {"size": 24},
    "experts": {"count": 2},
    "share_ffns": {"window": [0, 1]},
    "remove_ffns": {"layers": [0]},
    "drop_layers": {"layers": [0, 1]},
    "embedding": {"rank": 0.5},
    "vocabulary": {"text": "wikipedia-sample", "size": 50},
}

INTRODUCTION = """\
# Architectures and methods

Written by `make table` from the architecture data in `src/neuromeld/archs`; a test fails when the two disagree.
Methods are the stages of a recipe. **stock**: the result is a plain checkpoint of its family. **native**: it needs
`import neuromeld` or the code in its folder to load; the numbers say why. **refused**: the plan says no, with the
reason. A result is native, too, where layers get sizes of their own. Of a type that is not listed, FFNs and layers are
discovered, and what is proved of them is allowed ([how](decisions/0035-any-model.md),
[of which types](any-model.md)).
"""


def render() -> str:
    """The document."""
    reasons: list[str] = []
    lines = ["| architecture | | " + " | ".join(METHODS) + " |", "|---|---|" + "---|" * len(METHODS)]
    for name, config in configs().items():
        model = meta_model(config)
        cells = []
        for method, options in METHODS.items():
            outcome, *why = ask(model, {method: options})
            reasons += [reason for reason in why if reason not in reasons]
            notes = ", ".join(str(reasons.index(reason) + 1) for reason in why)
            cells.append(f"{outcome} ({notes})" if why else outcome)
        about = (importlib.import_module(f"neuromeld.archs.families.{name}").__doc__ or "").split("\n")[0].rstrip(".")
        lines.append(f"| `{name}` | {about} | " + " | ".join(cells) + " |")
    numbered = [
        textwrap.fill(f"{number}. {reason}", 140, subsequent_indent="   ", break_on_hyphens=False)
        for number, reason in enumerate(reasons, start=1)
    ]
    unsupported = [f"- `{name}`: {reason}" for name, reason in UNSUPPORTED.items()]
    return "\n".join([INTRODUCTION, *lines, "", *numbered, "", "Looked at, and refused:", "", *unsupported, ""])


def configs() -> dict[str, PretrainedConfig]:
    """A config of each type, and of each that is described under some heads alone, by name."""
    found = {}
    for name in ARCHITECTURES:
        found[name] = FAMILIES[next(family for family in FAMILIES if family.split("-")[0] == name)]()
    for spec in BY_CLASS.values():
        if spec.model_type not in found:
            config = CONFIG_MAPPING[spec.model_type](embedding_size=16, **BERT)
            config.architectures = [spec.model_class]
            found[spec.model_type] = config
    return dict(sorted(found.items()))


def ask(model: PreTrainedModel, stage: dict[str, object]) -> list[str]:
    """What a stage gives, and every reason why it is not a stock checkpoint."""
    given = stage | {"calibration": {"tokens": 1536, "seqlen": 16}}
    try:
        plan = make_plan(model, parse_recipe(given))
    except UnsupportedModelError as error:
        said = str(error).partition(". Stages that work")[0]
        return ["refused", said.partition(": ")[2] or said.replace(f"{model.config.model_type} models", "they")]
    if plan.format == "stock":
        return ["stock"]
    try:
        make_plan(model, parse_recipe(given | {"output": "stock"}))
    except UserInputError as error:
        return ["native", *str(error).partition(": ")[2].partition(". Use --native")[0].split("; ")]
    raise AssertionError("native was chosen where stock is possible")


if __name__ == "__main__":
    DOCUMENT.write_text(render(), encoding="utf-8")
