"""A third of DINOv2-S's feed-forward sublayers merged, against other ways to the same number of parameters, and tuned.

    python benchmarks/vision.py                           every row that is not in --out yet
    python benchmarks/vision.py --seed 1 --rows 2 12      some rows, with other images to calibrate and tune on

The backbone comes with a package (see `dinov2.py`); a linear head on it is trained once on FashionMNIST and kept, as a
Hugging Face folder, in the cache.  Rows that say so are tuned, every parameter, on images of the calibration split; the
schedule is chosen on validation images, with the dense model.  One line of JSON a row, with the protocol.
"""

import argparse
import copy
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from chosen_layers import chosen_layers
from dinov2 import dinov2_classifier, processor
from neuromeld import compress_model, make_plan, parse_recipe
from neuromeld.checkpoint import load_model
from neuromeld.data.calibration import Calibration
from neuromeld.data.images import LabelledImages, read_images
from neuromeld.evaluation import TaskScore, mean_loss, retained_performance, top1_accuracy, unique_parameters
from neuromeld.modalities import Images
from neuromeld.modalities.images import chunks, image_batch
from neuromeld.model.capture import Batch
from neuromeld.recovery import parse_recovery, recover_model
from neuromeld.runtime.cache import cache_folder

SIZE = 112
TRAINING, VALIDATION, EVALUATION = 4000, 500, 1000
CALIBRATION_TOKENS, SEARCH_TOKENS, HELD_OUT_TOKENS = 16384, 16384, 8192
DECAYS = (1e-5, 1e-4, 1e-3, 1e-2)
"""Weight decays of the head; the best on validation images is taken."""

SCHEDULES = ({"learning_rate": 1e-5, "steps": 100}, {"learning_rate": 3e-5, "steps": 150})
"""The one that leaves the dense model the least loss on validation images is taken for all rows."""
RECOVERY = {"train": Images.default, "batch_tokens": 1024, "schedule": "linear", "warmup": 10, "bf16": True}

DENSE = "dense"
ROWS: dict[str, dict[str, Any]] = {
    DENSE: {},
    "4 FFs merged: permute": {"share_ffns": {"count": 4, "compensate": "none"}},
    "4 FFs merged: permute, strongest, ridge": {"share_ffns": {"count": 4}},
    "4 FFs merged: permute, strongest, ridge, scales": {"share_ffns": {"count": 4, "gain": "scale"}},
    "4 FFs merged: vanilla": {"share_ffns": {"count": 4, "align": "none", "compensate": "none"}},
    "3 FFs deleted": {"remove_ffns": {"count": 3}},
    "2 layers dropped": {"drop_layers": {"count": 2}},
    "every FF narrowed to 3/4, ridge": {"ffn": {"size": 1152}},
    "5 FFs merged: permute, strongest, ridge": {"share_ffns": {"count": 5}},
    "4 FFs merged, all narrowed to 11/12: permute, strongest, ridge": {
        "ffn": {"size": 1408},
        "share_ffns": {"count": 4},
    },
}
"""A layer is 1.5 times its FF: each removes about 3.5 of 22 million parameters; 5 merged 4.7, 4 and all narrow 4.4."""

TUNED = ", tuned"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rows", type=int, nargs="*", default=range(2 * len(ROWS)), help="tuned ones come last")
    arguments.add_argument("--seed", type=int, default=0, help="draws the images to calibrate and tune on")
    arguments.add_argument("--out", type=Path, default=Path("benchmarks/results/vision.jsonl"))
    options = arguments.parse_args()
    folder = cache_folder() / "benchmarks" / f"dinov2-s-fashion-mnist-{SIZE}"
    if not folder.is_dir():
        train_head(folder)
    done = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    for row in [[*ROWS, *(row + TUNED for row in ROWS)][number] for number in options.rows]:
        if any((line["row"], line["seed"]) == (row, options.seed) for line in done):
            continue
        started = time.monotonic()
        base = row.removesuffix(TUNED)
        model, facts = build(base, folder, options.seed, found_layers(base, done))
        if row != base:
            schedules = next(([line["schedule"]] for line in done if line["row"] == DENSE + TUNED), SCHEDULES)
            model, tuning = tune(model, folder, options.seed, schedules)
            facts |= tuning
        line = {"row": row, "seed": options.seed} | facts | measure(model, folder)
        line["seconds"] = time.monotonic() - started
        for name, reference in {"retained": (DENSE, 0), "retained_of_tuned": (DENSE + TUNED, options.seed)}.items():
            dense = next((x for x in done if (x["row"], x["seed"]) == reference), None)
            if dense is not None and (row != base or name == "retained"):
                line |= compare(name, dense, line)
        write(options.out, line)
        done.append(line)


def found_layers(row: str, done: Sequence[dict[str, Any]]) -> list[int] | None:
    """Where a search has put this row before, with whatever seed."""
    return next((line["layers"] for line in done if line["row"] == row and line.get("layers")), None)


def compare(name: str, reference: dict[str, Any], line: dict[str, Any]) -> dict[str, float]:
    """The ratio of two lines' accuracies, with its interval."""
    scores = [{"images": TaskScore(x["accuracy"], tuple(map(float, x["correct"])), {})} for x in (reference, line)]
    retained = retained_performance(*scores)
    assert retained is not None
    return {name: retained.ratio, f"{name}_low": retained.low, f"{name}_high": retained.high}


def tune(
    model: PreTrainedModel, folder: Path, seed: int, schedules: Sequence[dict[str, Any]]
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model, tuned by the schedule that leaves the least loss on validation images, and how that went."""
    reader, start, runs = Images(), copy.deepcopy(model.state_dict()), []
    data = reader.validation(Calibration(), reader.processor(folder), model.config, HELD_OUT_TOKENS).batches
    for schedule in schedules:
        model.load_state_dict(start)
        with torch.enable_grad():
            told = recover_model(model, parse_recovery(RECOVERY | schedule | {"seed": seed}), reader.processor(folder))
        tuned = copy.deepcopy(model.state_dict())
        runs.append((mean_loss(model, data), tuned, {"schedule": schedule, "recovery": told}))
    _, best, facts = min(runs, key=lambda run: run[0])
    model.load_state_dict(best)
    return model, facts | {"losses": [loss for loss, *_ in runs]}


def build(row: str, folder: Path, seed: int, layers: Sequence[int] | None) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The smaller model, and which layers it was made smaller in; those given are taken, else searched."""
    model = load_model(folder, dtype=None, device="cpu")
    if not ROWS[row]:
        return model, {}
    reader, given = Images(), {key: dict(value) for key, value in ROWS[row].items()}
    if layers:
        for stage in given.keys() & {"share_ffns", "remove_ffns", "drop_layers"}:
            del given[stage]["count"]
            given[stage] |= {"window": [layers[0], layers[-1]]} if stage == "share_ffns" else {"layers": layers}
    settings = Calibration(tokens=CALIBRATION_TOKENS, seed=seed)
    recipe = parse_recipe(given | {"calibration": settings.model_dump()})
    calibration = reader.calibration(settings, reader.processor(folder), model.config, CALIBRATION_TOKENS)
    validation = reader.validation(settings, reader.processor(folder), model.config, SEARCH_TOKENS)
    found = compress_model(model, make_plan(model, recipe), calibration.batches, validation=validation.batches)
    return model, {"layers": chosen_layers(found.results)}


def measure(model: PreTrainedModel, folder: Path) -> dict[str, Any]:
    parameters = unique_parameters(model)
    model.bfloat16()
    images = read_images(Images.default, "evaluation")
    found = top1_accuracy(model, batches(images, range(EVALUATION), folder, model))
    return {
        "accuracy": found.accuracy,
        "loss": found.nll,
        "parameters": parameters,
        "correct": "".join(str(int(right)) for right in found.correct),
        "evaluation_images": EVALUATION,
        "evaluation_dtype": "bfloat16",
        "training_images": TRAINING,
        "calibration_tokens": CALIBRATION_TOKENS,
        "search_tokens": SEARCH_TOKENS,
        "pixels": SIZE,
    }


def batches(images: LabelledImages, chosen: Sequence[int], folder: Path, model: PreTrainedModel) -> Iterator[Batch]:
    maker = Images().processor(folder)
    for part in chunks(chosen, 32):
        batch = image_batch(images, part, maker, model.config)
        yield batch | {"pixel_values": batch["pixel_values"].to(model.dtype)}


def train_head(folder: Path) -> None:
    """Logistic regression on what the frozen backbone, in bfloat16, says of images of the calibration split."""
    splits = {"calibration": TRAINING, "validation": VALIDATION}
    images = {split: read_images(Images.default, split) for split in splits}  # type: ignore[arg-type]
    model = dinov2_classifier(list(images["calibration"].classes)).bfloat16()
    processor(SIZE).save_pretrained(folder.with_suffix(".processor"))
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for split, num in splits.items():
        seen: list[Tensor] = []
        hook = model.classifier.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].float()))
        # The order of a split is that of hashes: the first images are drawn at random already.
        parts = list(batches(images[split], range(num), folder.with_suffix(".processor"), model))
        for batch in parts:
            model(pixel_values=batch["pixel_values"])
        hook.remove()
        found[split] = torch.cat(seen), torch.cat([batch["labels"] for batch in parts])
    best = min(
        (fit(*found["calibration"], decay) for decay in DECAYS), key=lambda head: loss(head, *found["validation"])
    )
    model.float()
    model.classifier.weight.copy_(best[0])
    model.classifier.bias.copy_(best[1])
    model.save_pretrained(folder)
    processor(SIZE).save_pretrained(folder)


def fit(features: Tensor, labels: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    """Weight `(classes, features)` and bias `(classes,)`."""
    weight = torch.zeros(int(labels.max()) + 1, features.shape[1], requires_grad=True)
    bias = torch.zeros(len(weight), requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss((weight, bias), features, labels) + decay * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(closure)
    return weight.detach(), bias.detach()


def loss(head: tuple[Tensor, Tensor], features: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(features @ head[0].T + head[1], labels)


def write(path: Path, line: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")
    shown = {key: value for key, value in line.items() if key in ("row", "accuracy", "loss", "parameters", "retained")}
    print(json.dumps(shown), flush=True)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
