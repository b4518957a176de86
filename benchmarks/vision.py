"""A third of DINOv2-S's feed-forward sublayers merged, against other ways to the same number of parameters, and tuned.

    python benchmarks/vision.py                 every row that is not in --out yet

The backbone comes with a package (see `dinov2.py`); a linear head on it is trained once on FashionMNIST and kept, as a
Hugging Face folder, in the cache.  Rows that say so are tuned, every parameter, on images of the calibration split; the
schedule is chosen on validation images, with the dense model.  One line of JSON a row, with the protocol.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from dinov2 import dinov2_classifier, processor
from neuromeld import compress, parse_recipe
from neuromeld.cache import cache_folder
from neuromeld.checkpoint import load_model
from neuromeld.evaluate import TaskScore, mean_loss, retained_performance, top1_accuracy, unique_parameters
from neuromeld.images import LabelledImages, read_images
from neuromeld.inputs import Images
from neuromeld.inputs.images import chunks, image_batch
from neuromeld.plan import architecture_of
from neuromeld.recipe import Calibration
from neuromeld.recover import parse_recovery, recover
from neuromeld.streams import Batch
from neuromeld.sublayers import delete_ffs, search_windows, windows_of

SIZE = 112
TRAINING, VALIDATION, EVALUATION = 4000, 500, 1000
CALIBRATION_TOKENS, SEARCH_TOKENS = 16384, 4096
DECAYS = (1e-5, 1e-4, 1e-3, 1e-2)
"""Weight decays of the head; the best on validation images is taken."""

SCHEDULES = ({"learning_rate": 1e-5, "steps": 100}, {"learning_rate": 3e-5, "steps": 150})
"""The one that leaves the dense model the least loss on validation images is taken for all rows."""
RECOVERY = {"train": Images.default, "batch_tokens": 1024, "schedule": "linear", "warmup": 10, "bf16": True}

DELETED = "3 FFs deleted"
ROWS: dict[str, dict[str, Any]] = {
    "4 FFs merged: permute": {"merge_ffs": {"count": 4, "compensate": "none"}},
    "4 FFs merged: permute, shared ridge": {"merge_ffs": {"count": 4}},
    "4 FFs merged: vanilla": {"merge_ffs": {"count": 4, "align": "none", "compensate": "none"}},
    "4 FFs merged: vanilla, shared ridge": {"merge_ffs": {"count": 4, "align": "none"}},
    DELETED: {},
    "2 layers dropped": {"drop_layers": {"count": 2}},
    "every FF narrowed to 3/4, ridge": {"ffn": {"size": 1152}},
    "5 FFs merged: permute, shared ridge": {"merge_ffs": {"count": 5}},
}
"""A layer is 1.5 times its FF: each removes about 3.5 of 22 million parameters; 5 merged FFs, 4.7 million."""

DENSE_TUNED = "dense, tuned"
TUNED = {DENSE_TUNED: "dense"} | {f"{row}, tuned": row for row in ROWS if row.endswith("permute, shared ridge")}
"""What each tuned row starts from."""

Made = tuple[PreTrainedModel, dict[str, Any]]
"""A row's model, and what else is said of it: such as the layers that were made smaller."""

SAME_WINDOW = TUNED | {f"{row}, shared ridge": row for row in ("4 FFs merged: permute", "4 FFs merged: vanilla")}
"""Windows are searched without the refit, so that with it the same one would be found: it is not searched again."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rows", type=int, nargs="*", default=range(len(ROWS) + len(TUNED)))
    arguments.add_argument("--out", type=Path, default=Path("benchmarks/results/vision.jsonl"))
    options = arguments.parse_args()
    folder = cache_folder() / "benchmarks" / f"dinov2-s-fashion-mnist-{SIZE}"
    if not folder.is_dir():
        train_head(folder)
    done = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    reference = next((line for line in done if line["row"] == "dense"), None)
    if reference is None:
        reference = measure("dense", load_model(folder, dtype=None, device="cpu"), folder)
        write(options.out, reference)
    for row in [[*ROWS, *TUNED][number] for number in options.rows]:
        if any(line["row"] == row for line in done):
            continue
        started = time.monotonic()
        control = next((line for line in done if line["row"] == DENSE_TUNED), None)
        with TemporaryDirectory() as out:
            searched = next((line for line in done if line["row"] == SAME_WINDOW.get(row)), None)
            small, layers = Path(out) / "small", searched and searched.get("layers")
            if row in TUNED:
                model, facts = tune(row, folder, small, layers, control)
            else:
                model, facts = build(row, folder, small, layers)
            seconds = time.monotonic() - started
            line = measure(row, model, folder) | facts | {"seconds": seconds}
        line |= compare("retained", reference, line)
        if row in TUNED and control:
            line |= compare("retained_of_tuned", control, line)
        write(options.out, line)
        done.append(line)


def compare(name: str, reference: dict[str, Any], line: dict[str, Any]) -> dict[str, float]:
    """The ratio of two lines' accuracies, with its interval."""
    scores = [{"images": TaskScore(x["accuracy"], tuple(map(float, x["correct"])), {})} for x in (reference, line)]
    retained = retained_performance(*scores)
    assert retained is not None
    return {name: retained.ratio, f"{name}_low": retained.low, f"{name}_high": retained.high}


def tune(row: str, folder: Path, out: Path, layers: Sequence[int] | None, control: dict[str, Any] | None) -> Made:
    """The model that the row starts from, tuned as the control was, with how that went; the control, as is best."""
    source, facts = folder, dict[str, Any]()
    if row != DENSE_TUNED:
        source, facts = out, build(TUNED[row], folder, out, layers)[1]
    runs = []
    for number, schedule in enumerate([control["schedule"]] if control else SCHEDULES):
        target = out.with_name(f"tuned-{number}")
        with torch.enable_grad():
            recovery = recover(str(source), parse_recovery(RECOVERY | schedule), target).record["recovery"]
        runs.append((recovery["held_out"]["loss_after"], target, schedule, recovery))
    _, target, schedule, recovery = min(runs, key=lambda run: run[0])
    kept = ("settings", "held_out", "loss_curve", "tokens_seen", "parameters_trained", "seconds")
    facts |= {"schedule": schedule, "recovery": {key: recovery[key] for key in kept}}
    facts |= {"losses": [loss for loss, *_ in runs]}
    return load_model(target, dtype=None, device="cpu"), facts


def build(row: str, folder: Path, out: Path, layers: Sequence[int] | None = None) -> Made:
    """The smaller model, and which layers it was made smaller in; `layers` were found by a search before."""
    if row == DELETED:
        model = load_model(folder, dtype=None, device="cpu")
        arch, reader = architecture_of(model), Images()
        settings = Calibration(tokens=CALIBRATION_TOKENS)
        data = reader.validation(settings, reader.processor(folder), model.config, SEARCH_TOKENS).batches
        search = search_windows(
            model, windows_of(arch, 3), lambda window: delete_ffs(model, arch, window), lambda m: mean_loss(m, data)
        )
        delete_ffs(model, arch, search.best.window)
        return model, {"layers": list(search.best.window)}
    given = ROWS[row] | {"calibration": {"tokens": CALIBRATION_TOKENS}}
    if layers:
        found = {key: value for key, value in given["merge_ffs"].items() if key != "count"}
        given |= {"merge_ffs": found | {"window": [layers[0], layers[-1]]}}
    recipe = parse_recipe(given)
    record = compress(str(folder), recipe, out).record
    window = record.get("window")
    layers = record.get("dropped") or (window and list(range(window["start"], window["end"] + 1)))
    return load_model(out, dtype=None, device="cpu"), {"layers": layers}


def measure(row: str, model: PreTrainedModel, folder: Path) -> dict[str, Any]:
    parameters = unique_parameters(model)
    model.bfloat16()
    images = read_images(Images.default, "evaluation")
    found = top1_accuracy(model, batches(images, range(EVALUATION), folder, model))
    return {
        "row": row,
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
