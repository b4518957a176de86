"""The table `docs/architectures.md`: what every method gives on every architecture, asked of the code.

`PYTHONPATH=src:tests python -m contract.table` writes it.
"""

import importlib
from pathlib import Path

from transformers import PreTrainedModel

from contract.families import FAMILIES, WIDTH
from neuromeld import make_plan, parse_recipe
from neuromeld.archs import ARCHITECTURES
from neuromeld.errors import UnsupportedModelError, UserInputError
from neuromeld.plan import skeleton

DOCUMENT = Path(__file__).parents[2] / "docs" / "architectures.md"

METHODS = {
    "width": {"hidden_size": WIDTH - 6},
    "heads": {"kv_groups": 1},
    "ffn": {"size": 24},
    "merge_ffs": {"count": 2},
    "drop_layers": {"count": 2},
}

INTRODUCTION = """\
# Architectures and methods

Written by `make table` from the architecture data in `src/neuromeld/archs`; a test fails when the two disagree.
Methods are the stages of a recipe. **stock**: the result is a plain checkpoint of its family. **native**: it needs
`import neuromeld` or the code in its folder to load; the number says why. **refused**: the plan says no, with the
reason. A result is native, too, where layers get sizes of their own. Anything that is not listed is refused.
"""


def render() -> str:
    """The document."""
    reasons: list[str] = []
    lines = ["| architecture | | " + " | ".join(METHODS) + " |", "|---|---|" + "---|" * len(METHODS)]
    for name in ARCHITECTURES:
        family = next(family for family in FAMILIES if family.split("-")[0] == name)
        model = skeleton(FAMILIES[family]())
        cells = []
        for method, options in METHODS.items():
            outcome, reason = ask(model, {method: options})
            if reason is not None and reason not in reasons:
                reasons.append(reason)
            cells.append(outcome if reason is None else f"{outcome} ({reasons.index(reason) + 1})")
        about = (importlib.import_module(f"neuromeld.archs.{name}").__doc__ or "").split("\n")[0].rstrip(".")
        lines.append(f"| `{name}` | {about} | " + " | ".join(cells) + " |")
    notes = [f"{number}. {reason}" for number, reason in enumerate(reasons, start=1)]
    return "\n".join([INTRODUCTION, *lines, "", *notes, ""])


def ask(model: PreTrainedModel, stage: dict[str, object]) -> tuple[str, str | None]:
    """What a stage gives, and why it is not a stock checkpoint."""
    given = stage | {"calibration": {"tokens": 1536, "seqlen": 16}}
    try:
        plan = make_plan(model, parse_recipe(given))
    except UnsupportedModelError as error:
        return "refused", str(error).partition(": ")[2]
    if plan.format == "stock":
        return "stock", None
    try:
        make_plan(model, parse_recipe(given | {"output": "stock"}))
    except UserInputError as error:
        return "native", str(error).partition(": ")[2].removesuffix(". Use --native")
    raise AssertionError("native was chosen where stock is possible")


if __name__ == "__main__":
    DOCUMENT.write_text(render(), encoding="utf-8")
