"""The job of `export`: load, write in another form, load that again in its engine or read it, and compare."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from neuromeld.checkpoint import check_free, new_folder, save_record
from neuromeld.checkpoint.companions import copy_companions
from neuromeld.checkpoint.export.form import Content, Form
from neuromeld.checkpoint.export.forms import FORMS
from neuromeld.checkpoint.export.quantised import check_type
from neuromeld.checkpoint.export.running import by_transformers, is_installed, own_text
from neuromeld.checkpoint.export.shape import SHARED, Shape, shape_of
from neuromeld.checkpoint.folder import written_files
from neuromeld.checkpoint.source import locate
from neuromeld.errors import CheckpointError, NeuromeldError, UnsupportedModelError, UserInputError
from neuromeld.registry import unknown_name
from neuromeld.version import versions

TEXT_LENGTH = 128
"""Tokens of the model's own text that an engine and transformers are compared on."""

TOLERANCES = {"torch.float32": 0.05, "torch.float16": 0.2, "torch.bfloat16": 0.5}
"""How far a log-probability may move between transformers and an engine, in nats: caches may be float16."""

QUANTISED_TOLERANCE = 0.5
"""How far log-probabilities may move on average where matrices are quantised."""


@dataclass(frozen=True)
class ExportResult:
    """Result of `export`: the folder it wrote, and the content of `record.json`."""

    out: Path
    record: dict[str, Any]

    @property
    def checked(self) -> str:
        """How the result was compared with the model, in words."""
        return str(self.record["checked"])


def export(
    source: str | Path,
    out: str | Path,
    to: str,
    *,
    quantize: str | None = None,
    untie: bool = False,
    dtype: torch.dtype | None = None,
    force: bool = False,
) -> ExportResult:
    """Write the checkpoint at `source` into the folder `out` in the form that an engine loads.

    to         `gguf` for llama.cpp; `vllm`; `mlx` for MLX-LM, SGLang and TensorRT-LLM
    quantize   of gguf: `q8_0`, or a type that llama.cpp writes where it is installed, as `q4_k_m`
    untie      write a full copy for every FFN that shares its weights, which no engine loads as shared
    dtype      of the weights; None keeps the checkpoint's own

    The result is loaded in the engine, where that is installed, and its log-probabilities compared with those of
    transformers; otherwise it is read again and every tensor compared.  Raises `UnsupportedModelError` for a checkpoint
    that the form cannot hold, `CheckpointError` where what was written is not the model.
    """
    source, out, form = str(source), Path(out), FORMS[to]
    check_free(out, force=force, source=source)
    _check_quantize(form, quantize)
    found = locate(source)
    config = found.config()
    refuse(source, form, shape_of(config), config, untie=untie)
    content = Content(found.load(dtype, "cpu"), found.tokenizer(), quantize)
    with new_folder(out, force=force) as folder:
        return ExportResult(out, _written(form, content, found.folder, source, folder))


def _written(form: Form, content: Content, original: Path, source: str, folder: Path) -> dict[str, Any]:
    """Write a form into a folder, and compare; return its record."""
    form.write(content, folder)
    if form.name != "gguf":  # which has all of it inside
        content.tokenizer.save_pretrained(folder)
        copy_companions(original, folder)
    record = {"exported_from": source, "form": form.name, "quantize": content.quantize}
    record |= _checked(form, content, folder) | {"versions": versions()}
    save_record(folder, record | {"files": written_files(folder)}, card=None)
    return record


@dataclass(frozen=True)
class Exports:
    """Say which forms the result of a job is written in beside it: `gguf`, `gguf:q8_0`, `vllm`, `mlx`.

    They appear together with it.  One that fails leaves the others and the result as they are.

    untie   write a full copy for every FFN that shares its weights
    """

    out: Path
    names: tuple[str, ...]
    force: bool = False
    untie: bool = False

    def places(self) -> dict[str, Path]:
        """Return the folder of each form, by its name."""
        return {name: self.out.with_name(f"{self.out.name}-{name.replace(':', '-')}") for name in self.names}

    def check(self) -> None:
        """Raise for a form that is not known, or whose folder is not free: asked before any work."""
        for name, place in self.places().items():
            form, quantize = _named(name)
            _check_quantize(form, quantize)
            check_free(place, force=self.force)

    def refuse(self, shape: Shape, config: Any) -> None:
        """Raise `UnsupportedModelError` where one cannot hold a result of this shape; a stock result needs none."""
        for name in self.names:
            form, _ = _named(name)
            if shape.native or form.stock:
                refuse("this result", form, shape, config, untie=self.untie)

    def write(self, checkpoint: Path, beside: Path | None = None) -> dict[str, str]:
        """Write them from a finished folder; say of each how it was compared, or why it was not written.

        beside   where on the same disk they lie until all of them are there
        """
        found, said = locate(str(checkpoint)), {}
        shape = shape_of(found.config())
        with ExitStack() as stack:
            for name, place in self.places().items():
                form, quantize = _named(name)
                if not (shape.native or form.stock):
                    said[name] = AS_IT_IS
                    continue
                try:
                    with ExitStack() as one:
                        folder = one.enter_context(new_folder(place, force=self.force, beside=beside))
                        content = Content(found.load(None, "cpu"), found.tokenizer(), quantize)
                        said[name] = _written(form, content, found.folder, str(self.out), folder)["checked"]
                        stack.push(one.pop_all())
                except NeuromeldError as error:
                    said[name] = f"{NOT_WRITTEN}: {error}"
        return said


AS_IT_IS = "needs no export: engines load a stock checkpoint as it is"
NOT_WRITTEN = "not written"


def _named(name: str) -> tuple[Form, str | None]:
    """Return the form, and the type that stands behind a colon."""
    form, _, quantize = name.partition(":")
    return FORMS[form], quantize or None


def _check_quantize(form: Form, quantize: str | None) -> None:
    if quantize is not None and not form.quantize:
        raise UserInputError(f"--quantize {quantize} is for --to gguf; other forms keep the dtype of the weights")
    if quantize is not None and quantize not in form.quantize:
        raise UserInputError(unknown_name("type", quantize, list(form.quantize)))
    check_type(quantize)


def refuse(source: str, form: Form, shape: Shape, config: Any, *, untie: bool = False) -> None:
    """Raise `UnsupportedModelError` where a form cannot hold a model of this shape."""
    if not shape.native and not form.stock:
        raise UnsupportedModelError(
            f"{source} is a stock checkpoint, which needs no export to {form.name}: it is loaded as it is where its "
            "family is known"
        )
    reasons = form.reasons(shape, config)
    if shape.shared and not untie:
        reasons.append(f"{SHARED} are loaded by no engine as shared: pass --untie for full copies, or use transformers")
    if reasons:
        raise UnsupportedModelError(f"{source} cannot be exported to {form.name}: {'; '.join(reasons)}")


def _checked(form: Form, content: Content, folder: Path) -> dict[str, Any]:
    """Compare, and say how."""
    form.compare(content, folder)
    if form.measure is None or not is_installed(form.module):
        return {"checked": f"read again and every tensor compared; {form.module or form.name} is not installed here"}
    ids = own_text(content.model, TEXT_LENGTH)
    found, expected = form.measure(folder, ids), by_transformers(content.model, ids)
    largest, mean = _differences(found, expected)
    limit = QUANTISED_TOLERANCE if content.quantize else TOLERANCES[str(content.model.dtype)]
    if not (mean if content.quantize else largest) <= limit:
        raise CheckpointError(
            f"{form.module} does not compute what transformers does: log-probabilities of {len(ids)} tokens differ by "
            f"up to {largest:.3g}, {mean:.3g} on average; please report it"
        )
    moved = f"by {mean:.2g} nats on average, by {largest:.2g} at most"
    return {
        "checked": f"loaded in {form.module}: log-probabilities of {len(ids)} tokens differ {moved}",
        "largest_difference": largest,
        "mean_difference": mean,
    }


def _differences(found: Sequence[float], expected: Sequence[float]) -> tuple[float, float]:
    moved = [abs(a - b) for a, b in zip(found, expected, strict=True)]
    return max(moved), sum(moved) / len(moved)
