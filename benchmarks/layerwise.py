"""Whether training layers one at a time before distillation helps models that read no plain text.

    python benchmarks/layerwise.py dinov2                                       after python benchmarks/dinov2.py
    python benchmarks/layerwise.py whisper --folder WHISPER --data PROMPTS      both of speech.py's --work
    python benchmarks/layerwise.py ruaccent --folder ruaccent/model --data PAIRS.TSV      of ruaccent.py's --work

A script, since ruaccent's classes are its own and a grid trains one way.  A model is made smaller, then its layers are
trained to write the stream of the original's, or its predictions are followed, or the one after the other: each from
the same start and on the same data.  Losses are on the validation split, which the best step is chosen by.  One line
of JSON a row goes to `--out`.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

import ruaccent_marian
from neuromeld import compress_model, make_plan, parse_recipe
from neuromeld.archs import BY_CLASS
from neuromeld.checkpoint import load_model
from neuromeld.data.calibration import Calibration
from neuromeld.modalities import MODALITIES, Modality
from neuromeld.recovery.held_out import held_out_loss
from neuromeld.recovery.settings import Job, parse_recovery
from neuromeld.recovery.tune import tune

ROWS: dict[str, dict[str, object]] = {
    "every FFN narrowed to 1/2, ridge": {"ffn": {"ratio": 0.5}},
    "1 layer dropped": {"drop_layers": {"count": 1, "compensate": "none"}},
}
TRAININGS = {"layers": (True, False), "predictions": (False, True), "layers, predictions": (True, True)}
"""Whether layers are trained, and whether predictions are followed."""


@dataclass(frozen=True)
class Case:
    """A model, and how much it is calibrated and trained on."""

    load: Callable[[], tuple[PreTrainedModel, Any]]
    reader: Modality
    calibration: Calibration
    update: dict[str, int]


def main() -> None:
    arguments = arguments_for(str(__doc__))
    arguments.add_argument("--steps", type=int, default=60)
    arguments.add_argument("--rate", type=float, default=5e-5, help="Of predictions.")
    arguments.add_argument("--layer-rate", type=float, default=3e-4)
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments.add_argument("--out", type=Path, default=Path("benchmarks/results/layerwise.jsonl"))
    options = arguments.parse_args()
    for seed in options.seeds:
        case = CASES[options.model](options, seed)
        for row in ROWS:
            for line in measured(case, row, options.steps, options.rate, options.layer_rate):
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"model": options.model, "seed": seed, "row": row} | line) + "\n")
                print(options.model, seed, row, line, flush=True)


def arguments_for(description: str) -> argparse.ArgumentParser:
    """Return a parser that takes one of the cases."""
    formatter = argparse.RawDescriptionHelpFormatter
    arguments = argparse.ArgumentParser(description=description, formatter_class=formatter)
    arguments.add_argument("model", choices=CASES)
    arguments.add_argument("--folder", type=Path, default=None, help="The model.")
    arguments.add_argument("--data", default="fashion-mnist")
    return arguments


def measured(case: Case, row: str, steps: int, rate: float, layer_rate: float) -> list[dict[str, Any]]:
    """Make the model smaller, and train copies of it in each way."""
    original, processor = case.load()
    smaller, settings = copy.deepcopy(original), case.calibration
    data = case.reader.calibration(settings, processor, original.config, settings.tokens).batches
    validation = case.reader.validation(settings, processor, original.config, settings.tokens).batches
    plan = make_plan(smaller, parse_recipe(ROWS[row] | {"calibration": settings.model_dump()}))
    found = compress_model(smaller, plan, data, validation=validation)
    dropped = [layer for result in found.results.values() for layer in getattr(result, "layers", [])]
    measure = held_out_loss(case.reader, settings, processor, original.config)
    before = {"original": measure(original).nll, "compressed": measure(smaller).nll}
    pool = case.reader.training(settings, processor, original.config)
    lines = []
    for training, (layers, predictions) in TRAININGS.items():
        model, begun = copy.deepcopy(smaller), time.process_time()
        asked = case.update | {"seed": settings.seed, "train": settings.source, "original": "in memory"}
        following = {"steps": steps, "schedule": "cosine", "warmup": 0.05, "distill_weight": 1.0, "learning_rate": rate}
        asked |= following if predictions else {}
        asked |= {"layerwise_tokens": settings.tokens, "layerwise_rate": layer_rate} if layers else {}
        job = Job(
            parse_recovery(asked),
            "own",
            torch.device("cpu"),
            measure,
            before["compressed"],
            by_layer=data if layers else (),
            dropped=dropped,
        )
        tuned = tune(model, original, pool, job, progress=False)
        lines.append(
            {
                **before,
                "training": training,
                "after": measure(model).nll,
                "layers_better": sum(layer.error_after < layer.error_before for layer in tuned.layers),
                "seconds": time.process_time() - begun,
                "steps": steps if predictions else 0,
                "rate": rate if predictions else None,
                "layer_rate": layer_rate if layers else None,
                **case.update,
                "tokens": settings.tokens,
            }
        )
    return lines


def dinov2(options: argparse.Namespace, seed: int) -> Case:
    folder = options.folder or Path("benchmarks/models/dinov2-s-fashion-mnist-112")
    reader = MODALITIES["images"]
    settings = Calibration(source=options.data, tokens=16384, seed=seed)
    return Case(lambda: from_folder(folder, reader), reader, settings, {"batch_tokens": 1024})


def whisper(options: argparse.Namespace, seed: int) -> Case:
    reader = MODALITIES["speech"]
    settings = Calibration(source=f"file:{options.data}", tokens=36000, seed=seed)
    return Case(lambda: from_folder(options.folder, reader), reader, settings, {"batch_tokens": 6144})


def ruaccent(options: argparse.Namespace, seed: int) -> Case:
    BY_CLASS[ruaccent_marian.SPEC.model_class] = ruaccent_marian.SPEC
    settings = Calibration(source=f"file:{options.data}", tokens=65536, seqlen=256, seed=seed)
    return Case(
        lambda: ruaccent_marian.load(options.folder),
        MODALITIES["pairs"],
        settings,
        {"batch_tokens": 4096, "seqlen": 256},
    )


def from_folder(folder: Path, reader: Modality) -> tuple[PreTrainedModel, Any]:
    return load_model(folder, dtype=torch.float32, device="cpu"), reader.processor(folder)


CASES: dict[str, Callable[[argparse.Namespace, int], Case]] = {
    "dinov2": dinov2,
    "whisper": whisper,
    "ruaccent": ruaccent,
}

if __name__ == "__main__":
    main()
