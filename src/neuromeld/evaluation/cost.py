"""Count the cost of a model: arithmetic per token, parameters and bytes."""

import math
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from neuromeld.archs import BY_CLASS
from neuromeld.archs.spec import Space
from neuromeld.errors import CheckpointError


def flops_per_token(model: PreTrainedModel, *, context: int) -> int:
    """Count the floating-point operations of a dense model's forward pass for one token that attends to `context` keys.

    2 x (entries of every matrix applied to the token, biases excluded)
      + 4 x context x (width of the attention heads, summed over layers)

    In an encoder-decoder, one token is one of the source and one of the target; the latter also attends to `context`
    tokens of the source.

    Matrices are counted as often as they are applied: tied weights save memory, not time, so the output head counts
    although it is tied, and a module shared by two layers counts twice.  Of a mixture of experts, those that a token is
    sent to count.  Embedding look-ups, convolutions, norms, activations and the softmax are left out.  The second term
    is the scores and the weighted sum of values over the full context, with no discount for the causal mask
    (arXiv:2204.02311 appendix B, forward pass): the exact cost of decoding at position `context`, and the cost per
    token of a prefill whose kernel computes the masked half too.

    In an image model a token is a position of the stream: a patch, or a token beside them.  A classifier or pooler,
    which runs once an image, counts for every token.  Of a model in stages, which have different numbers of positions,
    it is one of every stage, and attention is left out.
    """
    matrices = _entries_applied(model)
    if model.config.is_encoder_decoder:
        return 2 * matrices + 4 * context * _query_outputs(model)
    config = model.config.get_text_config(decoder=True)
    heads = getattr(config, "num_attention_heads", None)
    if not isinstance(heads, int):
        return 2 * matrices
    head_dim: int = getattr(config, "head_dim", None) or config.hidden_size // heads
    own: list[int] | None = getattr(config, "neuromeld", {"widths": {}})["widths"].get(Space.HEADS)
    attention = sum(own) if own else heads * head_dim * config.num_hidden_layers
    return 2 * matrices + 4 * context * attention


@torch.no_grad()
def bytes_per_token(model: PreTrainedModel, *, context: int) -> int:
    """Count the bytes that a decoder reads to write one token behind `context` others, for one sequence at a time.

    Every matrix as often as it is applied, as in `flops_per_token`, and the keys and values of the context, of which a
    sliding window may spare some.  Biases, norms and activations are left out.  Where memory is the bottleneck, as it
    is in decoding, time follows this number.
    """
    one = torch.zeros((1, 1), dtype=torch.long, device=model.device)
    layers = model(input_ids=one, use_cache=True).past_key_values.layers
    cached: int = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
    return _entries_applied(model) * model.dtype.itemsize + context * cached


def _entries_applied(model: PreTrainedModel) -> int:
    """Entries of the matrices that are applied to a token, as often as they are."""
    described = BY_CLASS.get(type(model).__name__)
    repeated = {
        f"{stack.layers}.": int(getattr(model.config, stack.runs_key))
        for stack in (described.stacks if described else ())
        if stack.runs_key
    }

    def times(name: str) -> int:
        return math.prod(runs for layers, runs in repeated.items() if name.startswith(layers))

    matrices: int = sum(
        module.weight.numel() * times(name)
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, nn.Linear | Conv1D)
    )
    chosen: int = getattr(model.config.get_text_config(decoder=True), "num_experts_per_tok", 0)
    return matrices + (sum(_entries_of_experts(module, chosen) for module in model.modules()) if chosen else 0)


def _query_outputs(model: nn.Module) -> int:
    """Return the width of all query projections of a model that has them apart from those of keys and values."""
    queries = ("q_proj", "q")
    return sum(
        module.out_features
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in queries
    )


def _entries_of_experts(module: nn.Module, chosen: int) -> int:
    """Entries that a token meets: all of a router, and as many of the stacked experts as it is sent to."""
    own = list(module.parameters(recurse=False))
    router = sum(parameter.numel() for parameter in own) if hasattr(module, "top_k") else 0
    return router + sum(chosen * parameter[0].numel() for parameter in own if parameter.dim() == 3)


def unique_parameters(model: nn.Module) -> int:
    """Count the parameters, each once however many modules share it."""
    return sum(parameter.numel() for parameter in model.parameters())


def bytes_on_disk(folder: Path | str) -> int:
    """Return the size of a checkpoint's files of weights: pickled ones where there are no others.

    Raises `CheckpointError` when there is none.
    """
    files = list(Path(folder).glob("*.safetensors")) or list(Path(folder).glob("pytorch_model*.bin"))
    if not files:
        raise CheckpointError(f"{folder} holds no *.safetensors file: not a checkpoint folder, or not yet saved")
    return sum(file.stat().st_size for file in files)
