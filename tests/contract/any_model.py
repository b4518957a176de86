"""The page `docs/any-model.md`: what is discovered and proved of every model type of transformers.

`PYTHONPATH=src:tests python -m contract.any_model` writes it, in some minutes of processor time; with the name of a
mapping behind it (`MASKED_LM`) only the section of that; types behind it are looked at alone and printed.  Types are
shared out to one process for each core.
"""

import multiprocessing
import os
import re
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, PreTrainedModel
from transformers.models.auto import modeling_auto

from neuromeld import compress_model, make_plan, parse_recipe
from neuromeld.discovery.assemble import Proved, spec_of
from neuromeld.discovery.axes import built
from neuromeld.discovery.lookup import discover, example_inputs, randomise, small_like
from neuromeld.errors import NeuromeldError
from neuromeld.model.outputs import outputs

DOCUMENT = Path(__file__).parents[2] / "docs" / "any-model.md"

KINDS = {
    "CAUSAL_LM": "Causal language models",
    "MASKED_LM": "Masked language models",
    "SEQ_TO_SEQ_CAUSAL_LM": "Encoder-decoders, and language models with sound",
    "IMAGE_CLASSIFICATION": "Image classifiers",
    "IMAGE_TEXT_TO_TEXT": "Language models with images",
    "SEQUENCE_CLASSIFICATION": "Classifiers of sequences, and reward models",
    "TOKEN_CLASSIFICATION": "Classifiers of tokens",
    "QUESTION_ANSWERING": "Models that find spans",
}

GOALS = {
    "CAUSAL_LM": 0.85,
    "MASKED_LM": 0.80,
    "SEQ_TO_SEQ_CAUSAL_LM": 0.80,
    "IMAGE_TEXT_TO_TEXT": 0.80,
}
"""The least share of the types that can be built small in which FFNs and layers can be done without."""

INTRODUCTION = """\
# Any model

Written by `make families`, by discovery ([how](decisions/0035-any-model.md)), also for the types that are
[described](architectures.md). What is proved on a small random model of the structure of the default config of a type:

- `ffn`: units in another order, and units that are silent or gone, do what they should. **stock**: the config with the
  new width, read again, builds a model that gives the same outputs with the same weights. **native**: no key of the
  config states that width alone.
- `drop_layers`: without any one layer the others do what they do when it is skipped, and the config of what is left,
  read again, builds that model. **by name**: layers are not all of one shape, and some can be dropped.
- `experts`: experts in another order do what they should, and the config with fewer of them builds the model that is
  left.

Then the small model is compressed, FFNs to half and without a layer where that is proved, or with half of its experts,
saved, and loaded again with its own class: what does not say the same then is refused here, too. What is refused has
the number of the reason. A real model is discovered anew, with the structure of its own config.

Of image models in stages, each with a width of its own, a layer is dropped from every stage at once, by the same number
in each. The hidden units of a network of convolutions are FFNs where nothing but single points and filters of single
channels stands around them; most have norms there, which calibration does not narrow.
"""

NOTHING = "nothing writes and reads hidden units of its own"
"""What is said of a type without FFNs."""

SAME = 1e-5
"""Share of the largest output that may differ between a model and what is loaded again."""


@dataclass(frozen=True)
class Found:
    """What came of a type: a cell and a reason for each stage, or why no small model of it can be built.

    experts  why there cannot be fewer experts, "" where there can, None where there are none
    """

    name: str
    cells: tuple[str, str] = ("refused", "refused")
    reasons: tuple[str, str] = ("", "")
    unbuilt: str = ""
    experts: str | None = None


def types_of(kind: str) -> Iterator[tuple[str, Any]]:
    """Yield the model types of a mapping with their classes."""
    mapping = getattr(modeling_auto, f"MODEL_FOR_{kind}_MAPPING")
    for name in getattr(modeling_auto, f"MODEL_FOR_{kind}_MAPPING_NAMES"):
        found = mapping[CONFIG_MAPPING[name]]
        yield name, found[0] if isinstance(found, tuple) else found


def look_at(name: str, model_class: Any) -> Found:
    """Return what is discovered and proved of a type."""
    try:
        config = CONFIG_MAPPING[name]()
    except Exception as error:  # a config class without defaults
        return Found(name, unbuilt=f"its config has no valid defaults: {_line(error)}")
    parts = [getattr(config, part, None) for part in config.sub_configs]
    if type(config) is not model_class.config_class:  # of the language model alone
        config = next((part for part in parts if isinstance(part, model_class.config_class)), config)
    original = built(model_class, config)
    if original is None:
        return Found(name, unbuilt="transformers builds no model of its default config")
    found = discover(original)
    if found.unbuilt:
        return Found(name, unbuilt=_line(found.unbuilt))
    if not found.proved:
        reason = _line("; ".join(found.refused) or NOTHING)
        return Found(name, reasons=(reason, reason))
    best = found.proved[0]
    ffn = ("native", best.native_only) if best.native_only else ("stock", "")
    drop = _drop(best, original)
    saved = _as_saved(Found(name, (ffn[0], drop[0]), (ffn[1], drop[1])), original)
    return replace(saved, experts=_experts(best, original))


def _experts(proved: Proved, original: PreTrainedModel) -> str | None:
    if "experts" in proved.refusals:
        return _line(proved.refusals["experts"])
    return _lost(original, ("experts",)) if spec_of(original, proved).mixture is not None else None


def _as_saved(found: Found, original: PreTrainedModel) -> Found:
    """Refuse of what was proved what is not the same when it was saved and is loaded again."""
    if found.cells[1] != "refused":
        lost = _lost(original, ("ffn", "drop_layers"))
        if not lost:
            return found
        found = replace(found, cells=(found.cells[0], "refused"), reasons=(found.reasons[0], lost))
    lost = _lost(original, ("ffn",))
    return replace(found, cells=("refused", "refused"), reasons=(lost, lost)) if lost else found


def _lost(original: PreTrainedModel, stages: tuple[str, ...]) -> str:
    """Say what becomes of a small model that is compressed, saved and loaded again; nothing where it stays the same."""
    model: Any = built(type(original), small_like(original), "cpu")
    torch.manual_seed(0)
    randomise(model)
    inputs = example_inputs(model.config, type(model))
    try:
        plan = _plan(model, stages)
        smaller = compress_model(model, plan, [example_inputs(model.config, type(model)) for _ in range(4)]).model
        with tempfile.TemporaryDirectory() as folder:
            smaller.save_pretrained(folder)
            again = type(smaller).from_pretrained(folder).eval()
    except Exception as error:  # of this program, of the model, or of transformers when it loads it
        return _line(f"compressed, saved or loaded: {type(error).__name__}: {error}")
    wanted, said = outputs(smaller, inputs), outputs(again, inputs)
    same = wanted.shape == said.shape and (wanted - said).abs().max() <= SAME * wanted.abs().max()
    return "" if same else "it says something else when it was saved and is loaded again"


def _plan(model: PreTrainedModel, stages: tuple[str, ...]) -> Any:
    """Return the plan that drops the first layer that can be dropped, where one is to be."""
    recipe: dict[str, Any] = {"ffn": {"ratio": 0.5}, "calibration": {"tokens": 4096, "seqlen": 16}}
    if stages == ("experts",):
        experts = {"ratio": 0.5, "compensate": "none"}
        return make_plan(model, parse_recipe({"experts": experts, "calibration": recipe["calibration"]}))
    if stages == ("ffn",):
        return make_plan(model, parse_recipe(recipe))
    problems = []
    for layer in range(12):
        try:
            return make_plan(model, parse_recipe(recipe | {"drop_layers": {"layers": [layer]}}))
        except NeuromeldError as error:
            problems.append(error)
    raise problems[0]


def _drop(proved: Proved, original: PreTrainedModel) -> tuple[str, str]:
    if "drop_layers" in proved.refusals:
        return "refused", _line(proved.refusals["drop_layers"])
    alike = all(stack.alike for stack in spec_of(original, proved).stacks)
    return ("stock" if alike else "by name"), ""


WHOLE_WORDS = {"break_long_words": False, "break_on_hyphens": False}


def _line(text: object) -> str:
    return textwrap.shorten(str(text), 300)


def section(title: str, models: list[Found]) -> str:
    """The part of the document about the types of one mapping."""
    return "\n".join(_section(title, models))


def _section(title: str, models: list[Found]) -> Iterator[str]:
    small = [found for found in models if not found.unbuilt]
    ffn = sum(found.cells[0] != "refused" for found in small)
    both = sum("refused" not in found.cells for found in small)
    reasons: list[str] = []
    yield f"## {title}\n"
    yield (
        f"Of {len(models)} types {len(small)} can be built small. FFNs can be narrowed in {ffn} of these "
        f"({ffn / len(small):.0%}), and layers dropped, too, in {both} ({both / len(small):.0%}).{_of_those(small)}\n"
    )
    yield "| type | `ffn` | `drop_layers` |\n|---|---|---|"
    for found in small:
        cells = []
        for cell, reason in zip(found.cells, found.reasons, strict=True):
            if reason and reason not in reasons:
                reasons.append(reason)
            cells.append(f"{cell} ({reasons.index(reason) + 1})" if reason else cell)
        yield f"| `{found.name}` | {' | '.join(cells)} |"
    yield ""
    yield from (_wrapped(f"{number}. ", _plain(reason)) for number, reason in enumerate(reasons, start=1))
    yield from _fewer_experts(small)
    yield "\nNot built small:\n"
    for reason in dict.fromkeys(found.unbuilt for found in models if found.unbuilt):
        names = ", ".join(f"`{found.name}`" for found in models if found.unbuilt == reason)
        yield _wrapped("- ", f"{names}: {_plain(reason)}")
    yield ""


def _fewer_experts(small: list[Found]) -> Iterator[str]:
    proved = [f"`{found.name}`" for found in small if found.experts == ""]
    if proved:
        yield _wrapped("\n", f"Fewer experts (`experts`) are proved of {', '.join(proved)}; not of these:") + "\n"
        yield from (_wrapped("- ", f"`{found.name}`: {_plain(found.experts)}") for found in small if found.experts)


def _of_those(small: list[Found]) -> str:
    """Say what the shares are among the types that have FFNs at all, where some have none."""
    having = [found for found in small if found.reasons[0] != NOTHING]
    if len(having) == len(small):
        return ""
    ffn = sum(found.cells[0] != "refused" for found in having)
    both = sum("refused" not in found.cells for found in having)
    return f"\nOf the {len(having)} that have FFNs it is {ffn / len(having):.0%} and {both / len(having):.0%}."


def _plain(reason: str) -> str:
    """Return a reason in which nothing is markup."""
    return re.sub(r"([_*<>\[\]`|])", r"\\\1", reason)


def _wrapped(mark: str, text: str) -> str:
    """Return an entry of a list in lines of bounded length."""
    indent = " " * len(mark.strip("\n"))
    return textwrap.fill(text, 140, initial_indent=mark, subsequent_indent=indent, **WHOLE_WORDS)


def write(sections: dict[str, str]) -> None:
    """Put sections, by title, into the document; those of other mappings stay."""
    old = DOCUMENT.read_text(encoding="utf-8").split("\n## ")[1:] if DOCUMENT.exists() else []
    kept = {text.partition("\n")[0]: f"## {text.rstrip()}\n" for text in old} | sections
    parts = [kept[title] for title in KINDS.values() if title in kept]
    DOCUMENT.write_text("\n".join([INTRODUCTION, *parts]), encoding="utf-8")


def main(names: list[str]) -> None:
    """Print single types, or write the document, or the sections of some mappings."""
    _quiet()
    kinds = [kind for kind in KINDS if kind in names] or [*KINDS]
    types = [name for name in names if name not in KINDS]
    wanted = [(kind, name) for kind in kinds for name, _ in types_of(kind) if not types or name in types]
    models: dict[str, list[Found]] = {kind: [] for kind in kinds}
    with multiprocessing.get_context("spawn").Pool(os.cpu_count(), _quiet) as processes:
        for kind, found in processes.imap(_look, wanted):
            models[kind].append(found)
            sys.stdout.write(f"{kind} {found}\n")
            sys.stdout.flush()
    if not types:
        write({KINDS[kind]: section(KINDS[kind], models[kind]) for kind in kinds})


def _look(wanted: tuple[str, str]) -> tuple[str, Found]:
    kind, name = wanted
    return kind, look_at(name, dict(types_of(kind))[name])


def _quiet() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


if __name__ == "__main__":
    main(sys.argv[1:])
