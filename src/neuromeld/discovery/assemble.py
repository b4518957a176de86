"""Describe a model as a family's data file would, from what was found and proved of its kind."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn
from transformers import PreTrainedModel

from neuromeld.archs.classes import inputs_of_class
from neuromeld.archs.gated import EXPERT_MULTIPLE, EXPERT_REFUSALS
from neuromeld.archs.keys import read_key
from neuromeld.archs.spec import ArchSpec, Space, Stack, Weight
from neuromeld.discovery.groups import place_of

UNPROVED = "this architecture was discovered, and {} proved of it"


@dataclass(frozen=True)
class Proved:
    """One kind of FFN of a class of models, and what is proved of it and of its layers.

    weights      of one FFN; paths start at the layer
    stack        path of the list of layers
    ffn_keys     config keys that state the width, and nothing else; none where none does
    count_key    the config key of the number of layers, None where dropping layers is not proved
    layer_lists  config keys of lists with an entry for every layer
    refusals     by space or stage, what failed
    """

    weights: tuple[Weight, ...]
    stack: str
    ffn_keys: tuple[str, ...] = ()
    count_key: str | None = None
    layer_lists: tuple[str, ...] = ()
    native_only: str | None = None
    refusals: Mapping[str, str] = field(default_factory=dict)


def spec_of(model: PreTrainedModel, proved: Proved) -> ArchSpec:
    """Return the description of a model, small or not, on any device; what is not described is left as it is."""
    consumer = proved.weights[-1]
    layers = model.get_submodule(proved.stack)
    some = [hasattr(_submodule(layer, consumer.path), consumer.name) for layer in layers.children()]
    inside, outside = _untouched(model, proved)
    embedding, head = _tables(model, proved)
    mixture = EXPERT_REFUSALS if consumer.stacked else {}
    partly = {} if all(some) else dict.fromkeys(EXPERT_REFUSALS, "only some of its layers have an FFN of this kind")
    inputs = inputs_of_class(model.config, type(model))
    return ArchSpec(
        model_type=model.config.model_type,
        model_class=type(model).__name__,
        inputs=inputs,
        has_loss=inputs != "sentences",
        embeddings=(Weight(embedding, in_=Space.VOCAB, out=Space.RESIDUAL, layout="embedding"),) if embedding else (),
        head=Weight(head, in_=Space.RESIDUAL, out=Space.VOCAB) if head and embedding else None,
        stacks=(
            Stack(
                layers=proved.stack,
                weights=proved.weights,
                norms=(),
                untouched_parameters=tuple(inside),
                count_key=proved.count_key or "num_hidden_layers",
                ffn_in_some=not all(some),
                alike=layers_alike(layers),
            ),
        ),
        untouched_parameters=tuple(outside),
        stock_keys={Space.FFN: proved.ffn_keys} if proved.ffn_keys else {},
        native_only={Space.FFN: proved.native_only} if proved.native_only else {},
        refusals={
            Space.RESIDUAL: UNPROVED.format("nothing about the width of its residual stream is"),
            Space.HEADS: UNPROVED.format("nothing about its attention is"),
            "vocabulary": UNPROVED.format("nothing about its vocabulary is"),
            "embedding": UNPROVED.format("nothing about its embedding is"),
            **mixture,
            **partly,
            **proved.refusals,
        },
        kernel_multiple=EXPERT_MULTIPLE if consumer.stacked else 1,
        layer_lists=tuple(key for key in proved.layer_lists if len(read_key(model.config, key) or ()) == len(some)),
    )


def layers_alike(layers: nn.Module) -> bool:
    """Tell whether all layers of a list have the same parameters in the same shapes."""
    shapes = [[(name, p.shape) for name, p in layer.named_parameters()] for layer in layers.children()]
    return all(found == shapes[0] for found in shapes)


def _untouched(model: PreTrainedModel, proved: Proved) -> tuple[list[str], list[str]]:
    """Return the parameters that no method touches: in a layer, of any, and outside of layers."""
    described = {f"{weight.path}.{name}" for weight in proved.weights for name in (weight.name, "bias")}
    inside: dict[str, None] = {}
    outside = []
    for name, _ in model.named_parameters():
        place = place_of(name)
        if place is None or place[0] != proved.stack:
            outside.append(name)
        elif place[2] not in described:
            inside[place[2]] = None
    of_tables = {f"{path}.{name}" for path in _tables(model, proved) if path for name in ("weight", "bias")}
    return list(inside), [name for name in outside if name not in of_tables]


def _tables(model: PreTrainedModel, proved: Proved) -> tuple[str | None, str | None]:
    """Return the paths of the embedding and of the head, where they are plain and as wide as the stream."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    width = _stream_width(model, proved)
    if type(head) is not nn.Linear or head.in_features != width:
        head = None
    if not isinstance(embedding, nn.Embedding) or embedding.embedding_dim != width:
        return None, None
    if head is not None and head.out_features != embedding.num_embeddings:
        head = None
    paths = {id(module): path for path, module in model.named_modules()}
    return paths.get(id(embedding)), paths.get(id(head))


def _stream_width(model: PreTrainedModel, proved: Proved) -> int:
    consumer = proved.weights[-1]
    for layer in model.get_submodule(proved.stack).children():
        matrix = getattr(_submodule(layer, consumer.path), consumer.name, None)
        if matrix is not None:
            return int(matrix.shape[-2 if consumer.layout == "linear" else -1])
    raise AssertionError("no layer has the FFN that was found")


def _submodule(layer: nn.Module, path: str) -> nn.Module | None:
    module: nn.Module | None = layer
    for part in path.split("."):
        module = getattr(module, part, None)
    return module
