"""The page `docs/any-model.md`: what is discovered and proved of every model type of transformers.

`PYTHONPATH=src:tests python -m contract.any_model` writes it, in some minutes of processor time; `TYPE ...` behind it
prints single types instead.
"""

import sys
import tempfile
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, PretrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

from neuromeld import compress_model, make_plan, parse_recipe
from neuromeld.discovery.axes import built
from neuromeld.discovery.lookup import example_inputs, randomise, small_like
from neuromeld.discovery.proof import outputs_of
from neuromeld.errors import NeuromeldError
from neuromeld.model.native.classes import auto_class
from neuromeld.planning.plan import architecture_of

DOCUMENT = Path(__file__).parents[2] / "docs" / "any-model.md"

KINDS = {
    "CAUSAL_LM": "Causal language models",
    "MASKED_LM": "Masked language models",
    "IMAGE_CLASSIFICATION": "Image classifiers",
}

SAME = 1e-4

INTRODUCTION = """\
# Any model

Written by `make families`, by discovery ([how](decisions/0035-any-model.md)), also for the types that are
[described](architectures.md). Of each type that transformers finds by its default config: FFNs narrowed to half, and
a layer dropped, in a small random model of its structure, saved and loaded again with the same outputs. **stock** and
**native** are the formats of the results; what is refused has the number of the reason. Real models of a type are
discovered anew, with the structure of their own config.
"""


@dataclass(frozen=True)
class Found:
    """What came of a type: a cell for each stage, or why no small model can be built."""

    name: str
    cells: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    unbuilt: str | None = None

    @property
    def whole(self) -> bool:
        """Whether both stages were done."""
        return all(cell in ("stock", "native") for cell in self.cells) and not self.unbuilt


def types_of(kind: str) -> Iterator[tuple[str, Any]]:
    """Yield the model types of a mapping with their classes."""
    mapping = getattr(modeling_auto, f"MODEL_FOR_{kind}_MAPPING")
    for name in getattr(modeling_auto, f"MODEL_FOR_{kind}_MAPPING_NAMES"):
        found = mapping[CONFIG_MAPPING[name]]
        yield name, found[0] if isinstance(found, tuple) else found


def look_at(name: str, model_class: Any) -> Found:
    """Return what is discovered of a type and comes of it."""
    try:
        config = CONFIG_MAPPING[name]()
    except Exception as error:  # a config class without defaults
        return Found(name, unbuilt=f"its config has no valid defaults: {_line(error)}")
    original = built(model_class, config)
    if original is None:
        return Found(name, unbuilt="transformers builds no model of its default config")
    try:
        architecture_of(original)
        small = small_like(original)
    except (NeuromeldError, ValueError) as error:
        reason = _line(error).rpartition("would allow a stage: ")[2]
        unbuilt = ("no small", "a small model", "its small model", "transformers builds")
        if reason.startswith(unbuilt):
            return Found(name, unbuilt=reason)
        return Found(name, ("refused", "refused"), (reason, reason))
    cells, reasons = [], []
    for stages in _stages(original, small):
        try:
            cells.append(_outcome(model_class, small, stages))
            reasons.append("")
        except Exception as error:  # what fails is told, whatever it is
            cells.append("refused" if isinstance(error, NeuromeldError) else "fails")
            reasons.append(_line(error).partition(". Stages that work")[0].rpartition("models cannot be dropped: ")[2])
    return Found(name, tuple(cells), tuple(reasons))


def _stages(original: PreTrainedModel, small: PretrainedConfig) -> list[dict[str, Any]]:
    """Return what is tried: half of the hidden neurons, and the first layer that can be dropped, else the first."""
    model = built(type(original), small)
    assert model is not None
    layers = architecture_of(model).num_layers
    drop = {"drop_layers": {"layers": [0], "compensate": "none"}}
    for layer in reversed(range(layers)):
        tried = {"drop_layers": {"layers": [layer], "compensate": "none"}}
        try:
            make_plan(model, parse_recipe(tried | CALIBRATION))
        except NeuromeldError:
            continue
        drop = tried
    return [{"ffn": {"ratio": 0.5}}, drop]


CALIBRATION = {"calibration": {"tokens": 4096, "seqlen": 16}}


def _outcome(model_class: Any, small: PretrainedConfig, stages: dict[str, Any]) -> str:
    """Do it, save, load again, compare; return the format."""
    torch.manual_seed(0)
    config = type(small).from_dict(small.to_dict())
    model = built(model_class, config, "cpu")
    assert model is not None
    randomise(model)
    batches = [example_inputs(config, model_class) for _ in range(4)]
    plan = make_plan(model, parse_recipe(stages | CALIBRATION))
    smaller = compress_model(model, plan, batches).model
    with tempfile.TemporaryDirectory() as folder:
        smaller.save_pretrained(folder)
        again = auto_class(type(smaller)).from_pretrained(folder, dtype=torch.float32).eval()
        one, other = (outputs_of(model, batches[0]) for model in (smaller, again))
    if not (one - other).abs().max() <= SAME * one.abs().max():
        raise NeuromeldError("what is loaded again is another model")
    return plan.format


def _line(error: Exception) -> str:
    return textwrap.shorten(str(error), 400)


def render(found: dict[str, list[Found]]) -> str:
    """The document."""
    reasons: list[str] = []
    sections = [section for kind, models in found.items() for section in _section(KINDS[kind], models, reasons)]
    numbered = [f"{number}. {reason}" for number, reason in enumerate(reasons, start=1)]
    return "\n".join([INTRODUCTION, *sections, "## Reasons", "", *numbered, ""])


def _section(title: str, models: list[Found], reasons: list[str]) -> Iterator[str]:
    small = [found for found in models if not found.unbuilt]
    whole = sum(found.whole for found in small)
    ffn = sum(found.cells[0] in ("stock", "native") for found in small)
    yield f"## {title}\n"
    yield (
        f"Of {len(models)} types {len(small)} can be built small. FFNs are narrowed in {ffn} of these "
        f"({ffn / len(small):.0%}), and layers dropped, too, in {whole} ({whole / len(small):.0%}).\n"
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
    for reason, count in Counter(found.unbuilt for found in models if found.unbuilt).items():
        names = ", ".join(f"`{found.name}`" for found in models if found.unbuilt == reason)
        yield f"- {names} ({count}): {reason}" if count > 1 else f"- {names}: {reason}"
    yield ""


def main(names: list[str]) -> None:
    """Print single types, or write the document."""
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
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
