"""An architecture as data: which weights there are, and which space each of their axes lives in.

A *space* is a named set of coordinates shared by every axis that must be narrowed together: `residual`
is the residual stream, `ffn` one layer's hidden units, `heads` and `kv` the attention channels, `qkv` both in one
matrix, and so on.
A weight whose `out` is the residual stream *produces* into it; one whose `in_` is the residual stream
*consumes* it; where that is through a norm, `reads` names it.

Paths are module paths.  Those of layer weights and norms start at the layer; all others at the model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

RESIDUAL = "residual"
FFN = "ffn"
HEADS = "heads"
GROUPED = (HEADS, "kv", "qkv")
"""The spaces that groups of heads are taken out of: in each, one group comes after the other."""

NormKind = Literal["rms", "layer"]
"""`layer` also subtracts the mean of the coordinates."""

Layout = Literal["linear", "conv1d", "embedding"]
"""How a module stores its matrix: linear is `(out, in)`, conv1d and embedding are `(in, out)`."""

Inputs = Literal["tokens", "images", "pairs", "speech"]
"""What a model reads: text; images; text and the text it becomes; speech and its transcript."""


@dataclass(frozen=True)
class Weight:
    """One module with a matrix and, where the module has one, a bias over `out`.

    repeats  how often the outputs run through `out`: 2 for a gate and an up matrix, one after the other in one module
    """

    path: str
    in_: str
    out: str
    reads: str | None = None
    layout: Layout = "linear"
    repeats: int = 1


@dataclass(frozen=True)
class Norm:
    """One normalisation; `over` is the space it normalises.

    on_output  it stands on what a sublayer writes into the residual stream, and does not read the stream
    """

    path: str
    kind: NormKind
    over: str = RESIDUAL
    on_output: bool = False


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Layers, all of one shape, that run one after the other.

    layers     path of their list in the model
    extras     paths, in a layer, of parameters that no method touches
    mask       the entry of a batch that says which tokens of this stack are real, where there is padding
    count_key  the config key of their number
    """

    layers: str
    weights: tuple[Weight, ...]
    norms: tuple[Norm, ...]
    extras: tuple[str, ...] = ()
    mask: str = "attention_mask"
    count_key: str = "num_hidden_layers"


@dataclass(frozen=True)
class Requirement:
    """A config value that the description below relies on, and what is the matter when it differs."""

    key: str
    value: object
    reason: str


@dataclass(frozen=True, kw_only=True)
class ArchSpec:
    """Everything the methods know of one model class.

    `stacks` are in the order of execution: an encoder before its decoder.  `extras` are the paths of parameters that
    no method touches, outside of layers; a model need not have them all.  `final_norm` and `head` are None where the
    residual stream ends without.
    `stock_keys` maps a space to the config keys that state its size, apart from that of any other space; `native_only`
    says why no stock config can state the size of a space, `refusals` why a space cannot be narrowed at all,
    beyond what `refusal` finds in the norms.
    `head_keys` are the config keys of the numbers of query heads and of key-value heads, where whole groups of heads
    can be taken out.
    `stock_multiple` is the config key that a stock residual width must be a multiple of.
    `pins_head_dim`: `head_dim` defaults to a function of other sizes, and must be written out before they change.
    `layer_lists` are the config keys whose lists have an entry for every layer.
    `embedding_norm` is a norm between the token embedding and the stream.
    """

    model_type: str
    model_class: str
    stacks: tuple[Stack, ...]
    inputs: Inputs = "tokens"
    embeddings: tuple[Weight, ...] = ()
    final_norm: Norm | None = None
    head: Weight | None = None
    extras: tuple[str, ...] = ()
    embedding_norm: Norm | None = None
    stock_keys: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    native_only: Mapping[str, str] = field(default_factory=dict)
    refusals: Mapping[str, str] = field(default_factory=dict)
    head_keys: tuple[str, str] | None = None
    stock_multiple: str | None = None
    pins_head_dim: bool = False
    layer_lists: tuple[str, ...] = ("layer_types",)
    requires: tuple[Requirement, ...] = ()

    @property
    def kind(self) -> NormKind:
        """The kind of the norms through which the residual stream is read, in models whose stream can be narrowed."""
        assert self.final_norm is not None
        return self.final_norm.kind

    @property
    def norms(self) -> tuple[Norm, ...]:
        """The norms of one layer of each stack."""
        return tuple(norm for stack in self.stacks for norm in stack.norms)

    def config_keys(self, space: str) -> tuple[str, ...]:
        """The config keys that state the size of a space; none where no key does."""
        keys = self.stock_keys.get(space, ())
        return (keys,) if isinstance(keys, str) else keys

    def refusal(self, space: str) -> str | None:
        """Why a space cannot be narrowed at all: what its norms forbid, or what `refusals` says."""
        if space in self.refusals:
            return self.refusals[space]
        if space == RESIDUAL and any(norm.on_output for norm in self.norms):
            return "there are norms on what sublayers write, which a change of basis cannot pass"
        if space == HEADS and any(norm.over in GROUPED for norm in self.norms):
            return "the norms on queries and keys run over all heads at once"
        if space == RESIDUAL and (self.final_norm is None or len(self.stacks) > 1 or self._has_extras):
            return "its residual stream is not described in full"
        return None

    @property
    def cut_norms(self) -> tuple[Norm, ...]:
        """The norms of one layer that read the residual stream, in order of execution, of models with one stack."""
        return tuple(norm for norm in self.norms if norm.over == RESIDUAL and not norm.on_output)

    @property
    def _has_extras(self) -> bool:
        return bool(self.extras) or any(stack.extras for stack in self.stacks)
