"""Describe a model as a family's data file would, from what was found and proved of its kind."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn
from transformers import PreTrainedModel

from neuromeld.archs.classes import kind_of
from neuromeld.archs.gated import EXPERT_MULTIPLE, EXPERT_REFUSALS
from neuromeld.archs.keys import read_key
from neuromeld.archs.resolve import matrix_shape
from neuromeld.archs.spec import ArchSpec, FirstOnly, Mixture, Space, Stack, Weight
from neuromeld.discovery.axes import embedding_of

UNPROVED = "this architecture was discovered, and {} proved of it"


@dataclass(frozen=True)
class ProvedStack:
    """The FFNs of one list of layers.

    path       of the list
    weights    of one FFN; paths start at the layer
    mask       the entry of a batch that says which of the tokens that the layers read are real
    count_key  the config key of the number of layers, None where dropping layers is not proved
    mixture    the experts of its layers, where it is proved that fewer may be left
    """

    path: str
    weights: tuple[Weight, ...]
    mask: str = "attention_mask"
    count_key: str | None = None
    mixture: Mixture | None = None


@dataclass(frozen=True)
class Proved:
    """One kind of FFN of a class of models, and what is proved of it and of its layers.

    stacks       in the order in which they run: one, or an encoder and its decoder
    ffn_keys     config keys that state the width, and nothing else; none where none does
    switches_off config keys that must be false for `ffn_keys` to state the width
    layer_lists  config keys of lists with an entry for every layer
    staged       each stack has a stream and FFNs of widths of its own
    refusals     by space or stage, what failed
    """

    stacks: tuple[ProvedStack, ...]
    ffn_keys: tuple[str, ...] = ()
    switches_off: tuple[str, ...] = ()
    layer_lists: tuple[str, ...] = ()
    staged: bool = False
    native_only: str | None = None
    refusals: Mapping[str, str] = field(default_factory=dict)


def spec_of(model: PreTrainedModel, proved: Proved) -> ArchSpec:
    """Return the description of a model, small or not, on any device; what is not described is left as it is."""
    inside, outside = _untouched(model, proved)
    stacks = tuple(_stack(model, found, tuple(inside[found.path])) for found in proved.stacks)
    embedding, head = _tables(model, proved.stacks[0])
    stacked = any(found.weights[-1].stacked for found in proved.stacks)
    partly = dict.fromkeys(EXPERT_REFUSALS, "only some of its layers have an FFN of this kind")
    staged = dict.fromkeys(EXPERT_REFUSALS, "its stages have FFNs of several widths")
    kind = kind_of(model.config, type(model))
    depths = {stack.layers: len(list(model.get_submodule(stack.layers).children())) for stack in stacks}
    return ArchSpec(
        model_type=model.config.model_type,
        model_class=type(model).__name__,
        inputs=kind.inputs,
        has_loss=kind.has_loss,
        embeddings=(Weight(embedding, in_=Space.VOCAB, out=Space.RESIDUAL, layout="embedding"),) if embedding else (),
        head=Weight(head, in_=Space.RESIDUAL, out=Space.VOCAB) if head and embedding else None,
        stacks=stacks,
        untouched_parameters=tuple(outside),
        stock_keys={Space.FFN: proved.ffn_keys} if proved.ffn_keys else {},
        switches_off=proved.switches_off,
        native_only={Space.FFN: proved.native_only} if proved.native_only else {},
        refusals={
            Space.RESIDUAL: UNPROVED.format("nothing about the width of its residual stream is"),
            Space.HEADS: UNPROVED.format("nothing about its attention is"),
            "vocabulary": UNPROVED.format("nothing about its vocabulary is"),
            "embedding": UNPROVED.format("nothing about its embedding is"),
            **(EXPERT_REFUSALS if stacked else {}),
            **(partly if any(stack.ffn_in_some for stack in stacks) else {}),
            **(staged if proved.staged else {}),
            **proved.refusals,
        },
        kernel_multiple=EXPERT_MULTIPLE if stacked else 1,
        staged=proved.staged,
        layer_lists=tuple(
            key for key in proved.layer_lists if len(read_key(model.config, key) or ()) in depths.values()
        ),
    )


def _stack(model: PreTrainedModel, found: ProvedStack, untouched: tuple[str, ...]) -> Stack:
    consumer, layers = found.weights[-1], model.get_submodule(found.path)
    first = _first_only(layers)
    only = f"{first.owner}.{first.embedding}.weight" if first else None
    return Stack(
        layers=found.path,
        weights=found.weights,
        norms=(),
        untouched_parameters=tuple(name for name in untouched if name != only),
        first_only=first,
        mask=found.mask,
        count_key=found.count_key or "num_hidden_layers",
        ffn_in_some=not all(hasattr(_submodule(layer, consumer.path), consumer.name) for layer in layers.children()),
        alike=layers_alike(layers),
        mixture=found.mixture,
    )


def _first_only(layers: nn.Module) -> FirstOnly | None:
    """Return the one embedding that the first layer has for all, where a switch of its module says that it is there."""
    first, *others = layers.children()
    extra = {name for name, _ in first.named_parameters()}.difference(
        name for layer in others for name, _ in layer.named_parameters()
    )
    path, _, name = extra.pop().rpartition(".") if len(extra) == 1 else ("", "", "")
    if not others or name != "weight" or not isinstance(first.get_submodule(path), nn.Embedding):
        return None
    owner, _, embedding = path.rpartition(".")
    here, there = (vars(layer.get_submodule(owner)) for layer in (first, others[0]))
    flags = [flag for flag, value in here.items() if value is True and there.get(flag) is False]
    return FirstOnly(owner, embedding, flags[0]) if len(flags) == 1 else None


def layers_alike(layers: nn.Module) -> bool:
    """Tell whether all layers of a list have the same parameters in the same shapes, `first_only` apart."""
    first = _first_only(layers)
    only = f"{first.owner}.{first.embedding}.weight" if first else None
    shapes = [[(name, p.shape) for name, p in layer.named_parameters() if name != only] for layer in layers.children()]
    return all(found == shapes[0] for found in shapes)


def _untouched(model: PreTrainedModel, proved: Proved) -> tuple[dict[str, list[str]], list[str]]:
    """Return the parameters that no method touches: in a layer, of any, by the list of layers, and outside of them."""
    described = {
        found.path: {f"{weight.path}.{name}" for weight in found.weights for name in (weight.name, weight.bias)}
        for found in proved.stacks
    }
    inside: dict[str, dict[str, None]] = {path: {} for path in described}
    outside = []
    for name, _ in model.named_parameters():
        stack = next((path for path in described if name.startswith(f"{path}.")), None)
        if stack is None:
            outside.append(name)
        elif (local := name.removeprefix(f"{stack}.").partition(".")[2]) not in described[stack]:
            inside[stack][local] = None
    tables = _tables(model, proved.stacks[0])
    of_tables = {f"{path}.{name}" for path in tables if path for name in ("weight", "bias")}
    return {path: list(names) for path, names in inside.items()}, [name for name in outside if name not in of_tables]


def _tables(model: PreTrainedModel, stack: ProvedStack) -> tuple[str | None, str | None]:
    """Return the paths of the embedding and of the head, where they are plain and as wide as the stream."""
    embedding, head = embedding_of(model), model.get_output_embeddings()
    width = _stream_width(model, stack)
    if type(head) is not nn.Linear or head.in_features != width:
        head = None
    if not isinstance(embedding, nn.Embedding) or embedding.embedding_dim != width:
        return None, None
    if head is not None and head.out_features != embedding.num_embeddings:
        head = None
    paths = {id(module): path for path, module in model.named_modules()}
    return paths.get(id(embedding)), paths.get(id(head))


def _stream_width(model: PreTrainedModel, stack: ProvedStack) -> int:
    consumer = stack.weights[-1]
    for layer in model.get_submodule(stack.path).children():
        matrix = getattr(_submodule(layer, consumer.path), consumer.name, None)
        if matrix is not None:
            return matrix_shape(matrix, consumer)[1]
    raise AssertionError("no layer has the FFN that was found")


def _submodule(layer: nn.Module, path: str) -> nn.Module | None:
    module: nn.Module | None = layer
    for part in path.split("."):
        module = getattr(module, part, None)
    return module
