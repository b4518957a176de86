"""Turn a live stock model that was narrowed into its native class."""

from typing import Any

from transformers import PreTrainedModel

from neuromeld.archs import Architecture
from neuromeld.archs.spec import RESIDUAL
from neuromeld.checkpoint.modeling import NATIVE, attach_hooks
from neuromeld.plan import Plan


def native_block(arch: Architecture, plan: Plan) -> dict[str, Any]:
    """The `neuromeld` entry of the config of a native checkpoint; `modeling.py` says what its keys mean."""
    spec = arch.spec
    return {
        "width": plan.hidden_size_after,
        "layers": spec.layers,
        "head": spec.head.path,
        "resized": _resized(arch),
        "shortcuts": list(plan.starts[1:]),
        "head_adapter": plan.head_adapter,
        "token_scale": spec.embeddings[0].path if spec.embedding_norm else None,
        "identity": spec.embedding_norm.path if spec.embedding_norm else None,
    }


def make_native(model: PreTrainedModel, block: dict[str, Any]) -> None:
    """Give a model whose weights are narrow already the native class, config and forward pass."""
    # The classes change in place: every module holds this config, with private state that a copy would lose.
    model.config.__class__, model.__class__ = NATIVE[model.config.model_type]
    model.config.neuromeld = block
    attach_hooks(model, block)


def _resized(arch: Architecture) -> list[list[str]]:
    """Every module that has the width of the residual stream, with the axis that has it."""
    spec = arch.spec
    in_layers = [(f"{spec.layers}.*.{w.path}", w) for w in spec.layer_weights]
    weights = [*((w.path, w) for w in (*spec.embeddings, spec.head)), *in_layers]
    norms = [f"{spec.layers}.*.{norm.path}" for norm in spec.cut_norms] + [spec.final_norm.path]
    return [
        *([path, "in"] for path, w in weights if w.in_ == RESIDUAL),
        *([path, "out"] for path, w in weights if w.out == RESIDUAL),
        *([path, "both"] for path in norms),
    ]
