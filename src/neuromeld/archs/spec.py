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


@dataclass(frozen=True)
class Requirement:
    """A config value that the description below relies on, and what is the matter when it differs."""

    key: str
    value: object
    reason: str


@dataclass(frozen=True, kw_only=True)
class ArchSpec:
    """Everything the methods know of one family.

    `stock_keys` maps a space to the config key that states its size, apart from that of any other space; `native_only`
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
    layers: str
    embeddings: tuple[Weight, ...]
    layer_weights: tuple[Weight, ...]
    layer_norms: tuple[Norm, ...]
    final_norm: Norm
    head: Weight
    embedding_norm: Norm | None = None
    stock_keys: Mapping[str, str] = field(default_factory=dict)
    native_only: Mapping[str, str] = field(default_factory=dict)
    refusals: Mapping[str, str] = field(default_factory=dict)
    head_keys: tuple[str, str] | None = None
    stock_multiple: str | None = None
    pins_head_dim: bool = False
    layer_lists: tuple[str, ...] = ("layer_types",)
    requires: tuple[Requirement, ...] = ()

    @property
    def kind(self) -> NormKind:
        """The kind of the norms through which the residual stream is read."""
        return self.final_norm.kind

    def refusal(self, space: str) -> str | None:
        """Why a space cannot be narrowed at all: what its norms forbid, or what `refusals` says."""
        if space == RESIDUAL and any(norm.on_output for norm in self.layer_norms):
            return "there are norms on what sublayers write, which a change of basis cannot pass"
        if space == HEADS and any(norm.over in GROUPED for norm in self.layer_norms):
            return "the norms on queries and keys run over all heads at once"
        return self.refusals.get(space)

    @property
    def cut_norms(self) -> tuple[Norm, ...]:
        """The norms of one layer that read the residual stream, in order of execution."""
        return tuple(norm for norm in self.layer_norms if norm.over == RESIDUAL and not norm.on_output)
