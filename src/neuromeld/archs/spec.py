"""An architecture as data: which weights there are, and which space each of their axes lives in.

A *space* is a named set of coordinates shared by every axis that must be narrowed together: `residual`
is the residual stream, `ffn` one layer's hidden units, `heads` and `kv` the attention channels, and so on.
A weight whose `out` is the residual stream *produces* into it; one whose `in_` is the residual stream
*consumes* it, always through a norm, which `reads` names.

Paths are module paths.  Those of layer weights and norms start at the layer; all others at the model.
"""

from dataclasses import dataclass
from typing import Literal

RESIDUAL = "residual"

NormKind = Literal["rms", "layer"]
"""`layer` also subtracts the mean of the coordinates."""

Layout = Literal["linear", "conv1d", "embedding"]
"""How a module stores its matrix: linear is `(out, in)`, conv1d and embedding are `(in, out)`."""


@dataclass(frozen=True)
class Weight:
    """One module with a matrix and, where the module has one, a bias over `out`."""

    path: str
    in_: str
    out: str
    reads: str | None = None
    layout: Layout = "linear"


@dataclass(frozen=True)
class Norm:
    """One normalisation; `over` is the space it normalises."""

    path: str
    kind: NormKind
    over: str = RESIDUAL


@dataclass(frozen=True)
class Requirement:
    """A config value that the description below relies on, and what is the matter when it differs."""

    key: str
    value: object
    reason: str


@dataclass(frozen=True, kw_only=True)
class ArchSpec:
    """Everything the methods know of one family.

    `stock_width` is the config key of the residual width, where a stock config can state it apart from the width of
    attention; None says that it cannot, and then `stock_refusal` says why.
    `stock_multiple` is the config key that a stock width must be a multiple of.
    `pins_head_dim`: `head_dim` defaults to a function of the width, and must be written out before that changes.
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
    stock_width: str | None = None
    stock_refusal: str = ""
    stock_multiple: str | None = None
    pins_head_dim: bool = False
    requires: tuple[Requirement, ...] = ()

    @property
    def kind(self) -> NormKind:
        """The kind of the norms through which the residual stream is read."""
        return self.final_norm.kind

    @property
    def cut_norms(self) -> tuple[Norm, ...]:
        """The norms of one layer that read the residual stream, in order of execution."""
        return tuple(norm for norm in self.layer_norms if norm.over == RESIDUAL)
