"""The page `docs/any-model.md`: what is discovered and proved of every model type of transformers.

`PYTHONPATH=src:tests python -m contract.any_model` writes it, in some minutes of processor time; types behind it are
looked at alone and printed.
"""

import sys
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from transformers import CONFIG_MAPPING
from transformers.models.auto import modeling_auto

from neuromeld.discovery.assemble import Proved
from neuromeld.discovery.axes import built
from neuromeld.discovery.lookup import discover

DOCUMENT = Path(__file__).parents[2] / "docs" / "any-model.md"

KINDS = {
    "CAUSAL_LM": "Causal language models",
    "MASKED_LM": "Masked language models",
    "IMAGE_CLASSIFICATION": "Image classifiers",
    "IMAGE_TEXT_TO_TEXT": "Language models with images",
}

INTRODUCTION = """\
# Any model

Written by `make families`, by discovery ([how](decisions/0035-any-model.md)), also for the types that are
[described](architectures.md). What is proved on a small random model of the structure of the default config of a type:

- `ffn`: units in another order, and units that are silent or gone, do what they should. **stock**: the config with the
  new width, read again, builds a model that gives the same outputs with the same weights. **native**: no key of the
  config states that width alone.
- `drop_layers`: without any one layer the others do what they do when it is skipped, and the config of what is left,
  read again, builds that model. **by name**: layers are not all of one shape, and some can be dropped.

What is refused has the number of the reason. A real model is discovered anew, with the structure of its own config.
"""


@dataclass(frozen=True)
class Found:
    """What came of a type: a cell and a reason for each stage, or why no small model of it can be built."""

    name: str
    cells: tuple[str, str] = ("refused", "refused")
    reasons: tuple[str, str] = ("", "")
    unbuilt: str = ""


def types_of(kind: str) -> Iterator[tuple[str, Any]]:
    """Yield the model types of a mapping with their classes."""
    mapping = getattr(modeling_auto, f"MODEL_FOR_{kind}_MAPPING")
    for name in getattr(modeling_auto, f"MODEL_FOR_{kind}_MAPPING_NAMES"):
        found = mapping[CONFIG_MAPPING[name]]
        yield name, found[0] if isinstance(found, tuple) else found


def look_at(name: str, model_class: Any) -> Found:
    """Return what is discovered and proved of a type."""
    try:
        original = built(model_class, CONFIG_MAPPING[name]())
    except Exception as error:  # a config class without defaults
        return Found(name, unbuilt=f"its config has no valid defaults: {_line(error)}")
    if original is None:
        return Found(name, unbuilt="transformers builds no model of its default config")
    found = discover(original)
    if found.unbuilt:
        return Found(name, unbuilt=_line(found.unbuilt))
    if not found.proved:
        reason = _line("; ".join(found.refused) or "nothing writes and reads hidden units of its own")
        return Found(name, reasons=(reason, reason))
    best = found.proved[0]
    ffn = ("native", best.native_only) if best.native_only else ("stock", "")
    drop = _drop(best, original)
    return Found(name, (ffn[0], drop[0]), (ffn[1], drop[1]))


def _drop(proved: Proved, original: Any) -> tuple[str, str]:
    if proved.count_key is None:
        return "refused", _line(proved.refusals["drop_layers"])
    shapes = [[p.shape for p in layer.parameters()] for layer in original.get_submodule(proved.stack)]
    return ("stock" if all(layer == shapes[0] for layer in shapes) else "by name"), ""


def _line(text: object) -> str:
    return textwrap.shorten(str(text), 300)


def render(found: dict[str, list[Found]]) -> str:
    """The document."""
    reasons: list[str] = []
    sections = [line for kind, models in found.items() if models for line in _section(KINDS[kind], models, reasons)]
    numbered = [f"{number}. {reason}" for number, reason in enumerate(reasons, start=1)]
    return "\n".join([INTRODUCTION, *sections, "## Reasons", "", *numbered, ""])


def _section(title: str, models: list[Found], reasons: list[str]) -> Iterator[str]:
    small = [found for found in models if not found.unbuilt]
    ffn = sum(found.cells[0] != "refused" for found in small)
    both = sum("refused" not in found.cells for found in small)
    yield f"## {title}\n"
    yield (
        f"Of {len(models)} types {len(small)} can be built small. FFNs can be narrowed in {ffn} of these "
        f"({ffn / len(small):.0%}), and layers dropped, too, in {both} ({both / len(small):.0%}).\n"
    )
    yield "| type | `ffn` | `drop_layers` |\n|---|---|---|"
    for found in small:
        cells = []
        for cell, reason in zip(found.cells, found.reasons, strict=True):
            if reason and reason not in reasons:
                reasons.append(reason)
            cells.append(f"{cell} ({reasons.index(reason) + 1})" if reason else cell)
        yield f"| `{found.name}` | {' | '.join(cells)} |"
    yield "\nNot built small:\n"
    for reason in dict.fromkeys(found.unbuilt for found in models if found.unbuilt):
        names = ", ".join(f"`{found.name}`" for found in models if found.unbuilt == reason)
        yield f"- {names}: {reason}"
    yield ""


def main(names: list[str]) -> None:
    """Print single types, or write the document."""
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    found: dict[str, list[Found]] = {kind: [] for kind in KINDS}
    for kind, models in found.items():
        for name, model_class in types_of(kind):
            if not names or name in names:
                models.append(look_at(name, model_class))
                sys.stdout.write(f"{kind} {models[-1]}\n")
                sys.stdout.flush()
    if not names:
        DOCUMENT.write_text(render(found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
