"""An architecture as data: which weights there are, and which space each of their axes lives in.

A *space* (`Space`) is a set of coordinates shared by every axis that must be narrowed together: the residual stream,
one layer's hidden neurons, its attention channels.
A weight whose `out` is the residual stream *produces* into it; one whose `in_` is the residual stream
*consumes* it; where that is through a norm, `input_norm` names it.

Paths are module paths.  Those of layer weights and norms start at the layer; all others at the model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum, auto
from typing import Literal


class Space(StrEnum):
    """Name the coordinates that an axis of a weight lives in.

    `FFN` and the attention spaces are a layer's own.  `HEADS` are the channels of its queries, `KV` those of its keys
    or values, `QKV` all of them in one matrix, `HEAD` those of one head; a decoder attends to its encoder in the
    `CROSS_` spaces.  `TAPS` are the entries of a filter that runs over one channel.  `EMBEDDING` is the width of tables
    that stand apart from the stream.  The last five count the rows of embeddings; `TARGET_VOCAB` the tokens that a
    model writes, where these are numbered apart from those that it reads.
    """

    RESIDUAL = auto()
    FFN = auto()
    EXPERTS = auto()
    HEADS = auto()
    KV = auto()
    QKV = auto()
    HEAD = auto()
    CROSS_HEADS = auto()
    CROSS_KV = auto()
    TAPS = auto()
    EMBEDDING = auto()
    VOCAB = auto()
    TARGET_VOCAB = auto()
    POSITIONS = auto()
    FRAMES = auto()
    TOKEN_TYPES = auto()


VOCABULARIES = (Space.VOCAB, Space.TARGET_VOCAB)
"""The spaces with an entry for each token."""

GROUPED = (Space.HEADS, Space.KV, Space.QKV)
"""The spaces that groups of heads are taken out of: in each, one group comes after the other."""

NormKind = Literal["rms", "layer"]
"""`layer` also subtracts the mean of the coordinates."""

Layout = Literal["linear", "conv1d", "embedding", "conv"]
"""How a module stores its matrix: linear is `(out, in)`, conv1d and embedding are `(in, out)`; conv is
`(out, in, 1, 1)` of a convolution at single points, and `(out, 1, height, width)` of one that keeps channels apart,
whose inputs are `TAPS`."""

Inputs = Literal["tokens", "masked", "sentences", "images", "pairs", "speech"]
"""What a model reads: text to go on with; text with gaps; text to encode; images; text and the text it becomes; speech
and its transcript."""


@dataclass(frozen=True)
class Weight:
    """One module with a matrix and, where the module has one, a bias over `out`.

    name     of the matrix in the module; where a matrix is stacked, one for each expert, it has a first axis more
    repeats  how often the outputs run through `out`: 2 for a gate and an up matrix, one after the other in one module
    interleaved  the outputs of a unit stand side by side: gate and up of the first, then of the second
    """

    path: str
    in_: Space
    out: Space
    input_norm: str | None = None
    layout: Layout = "linear"
    repeats: int = 1
    name: str = "weight"
    interleaved: bool = False

    @property
    def bias(self) -> str:
        """The name of its bias in the module, where there is one."""
        return f"{self.name}_bias" if self.stacked else "bias"

    @property
    def stacked(self) -> bool:
        """Whether there is one for each expert."""
        return self.name != "weight"


@dataclass(frozen=True)
class Norm:
    """One normalisation; `over` is the space it normalises.

    on_output  it stands on what a sublayer writes into the residual stream, and does not read the stream
    """

    path: str
    kind: NormKind
    over: Space = Space.RESIDUAL
    on_output: bool = False


@dataclass(frozen=True)
class FirstOnly:
    """An embedding that no method touches, and that only the first layer of a stack has, for all of its layers.

    owner      path, in a layer, of the module that it is in
    embedding  its name there
    flag       the attribute of the owner that says whether it is there
    """

    owner: str
    embedding: str
    flag: str


@dataclass(frozen=True)
class Scale:
    """A factor for each channel of what a sublayer writes: a parameter, by its path in a layer, plus `offset`."""

    path: str
    offset: float = 0.0


@dataclass(frozen=True)
class NarrowEmbedding:
    """Describe what a stock model has where its embedding is narrower than the stream.

    key   the config key of its width, which is that of the head's input, too
    up    path of the linear map, without bias, from the embedding to the stream
    down  path of the one from the stream to the head
    """

    key: str
    up: str
    down: str


@dataclass(frozen=True)
class TablesApart:
    """Describe tables of a width of their own: their sum goes through a LayerNorm, and a linear map to the stream.

    key   the config key of their width
    norm  path of the LayerNorm
    up    path of the map, with a bias
    always  it is there where the tables are as wide as the stream, too
    """

    key: str
    norm: str
    up: str
    always: bool = False


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """The experts of a layer, and what there is one of for each of them; paths start at the layer.

    experts     path of the module that is called with tokens `(n, d)`, the numbers of the experts that each is sent to
                `(n, k)` and their shares in what is written `(n, k)`
    tensors     parameters and buffers with an entry for each expert, and on which axis
    counts      modules, and their attributes that say how many experts there are
    counts_of_model  the same outside of layers, by full paths
    key         the config key of the number of experts
    active_key  that of the number that a token is sent to
    groups_key  that of the number of groups that experts come in, one group after the other; None where there are none
    """

    experts: str
    tensors: tuple[tuple[str, int], ...]
    counts: tuple[tuple[str, str], ...]
    counts_of_model: tuple[tuple[str, str], ...] = ()
    key: str
    active_key: str = "num_experts_per_tok"
    groups_key: str | None = None


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Layers, all of one shape but for `first_only`, that run one after the other.

    layers     path of their list in the model
    untouched_parameters     paths, in a layer, of parameters that no method touches
    mask       the entry of a batch that says which tokens of this stack are real, where there is padding; None where
               all positions count
    count_key  the config key of their number
    runs_key   that of how often they run, one time after the other; None where they run once
    ffn_scale  the last thing that what an FFN writes passes, where it has a factor for each channel
    factor_key the config key of a number that what sublayers write is multiplied by
    ffn_in_some  some layers may have none of the FFNs described: another kind, or none
    alike      all layers have the same parameters in the same shapes
    mixture    the experts of its layers, or of some of them, where fewer may be left
    """

    layers: str
    weights: tuple[Weight, ...]
    norms: tuple[Norm, ...]
    untouched_parameters: tuple[str, ...] = ()
    first_only: FirstOnly | None = None
    mask: str | None = "attention_mask"
    count_key: str = "num_hidden_layers"
    runs_key: str | None = None
    ffn_scale: Scale | None = None
    factor_key: str | None = None
    ffn_in_some: bool = False
    alike: bool = True
    mixture: Mixture | None = None

    @property
    def ffn_adds(self) -> bool:
        """Whether what one FFN writes is added to the stream: it may be scaled, but no norm stands between."""
        plain = not any(norm.on_output for norm in self.norms)
        producers = [weight for weight in self.weights if weight.out == Space.FFN]
        return plain and all(weight.input_norm is not None and not weight.stacked for weight in producers)


@dataclass(frozen=True)
class Requirement:
    """A config value that the description below relies on, and what is the matter when it differs."""

    key: str
    value: object
    reason: str


@dataclass(frozen=True, kw_only=True)
class ArchSpec:
    """Everything the methods know of one model class.

    `stacks` are in the order of execution: an encoder before its decoder.  `has_loss`: the model says something that
    calibration data can contradict.  `untouched_parameters` are the paths of parameters that no method touches,
    outside of layers; a model need not have them all.  `final_norm` and `head` are None where the residual
    stream ends without.
    `stock_keys` maps a space to the config keys that state its size, apart from that of any other space; `native_only`
    says why no stock config can state the size of a space, `refusals` why a space cannot be narrowed at all,
    beyond what `refusal` finds in the norms, and under the name of a stage, as `share_ffns`, why a
    model cannot be given that.
    `switches_off` are config keys that must be false where `stock_keys` are to state the width of FFNs.
    `head_keys` are the config keys of the numbers of query heads and of key-value heads, where whole groups of heads
    can be taken out.
    `stock_multiple` is the config key that a stock residual width must be a multiple of.
    `kernel_multiple` is what the widths of the stream and of FFNs must be multiples of, for transformers' kernels.
    `writes_head_dim`: `head_dim` defaults to a function of other sizes, and must be written out before they change.
    `staged` says that every stack has a stream and FFNs of widths of its own.
    `layer_lists` are the config keys whose lists have an entry for every layer.
    `embedding_norm` is a norm between the token embedding and the stream.
    `narrow_embedding` says how a stock config holds an embedding that is narrower than the stream, `tables_apart` how
    one holds tables in front of a norm; None where none can.
    `token_vectors` are the paths of parameters and buffers with a number for each token, beside the biases of weights.
    `variants` describe the same model class under config values that `requires` excludes here.
    """

    model_type: str
    model_class: str
    stacks: tuple[Stack, ...]
    inputs: Inputs = "tokens"
    has_loss: bool = True
    embeddings: tuple[Weight, ...] = ()
    final_norm: Norm | None = None
    head: Weight | None = None
    untouched_parameters: tuple[str, ...] = ()
    embedding_norm: Norm | None = None
    narrow_embedding: NarrowEmbedding | None = None
    tables_apart: TablesApart | None = None
    token_vectors: tuple[str, ...] = ()
    stock_keys: Mapping[Space, str | tuple[str, ...]] = field(default_factory=dict)
    switches_off: tuple[str, ...] = ()
    native_only: Mapping[Space, str] = field(default_factory=dict)
    refusals: Mapping[str, str] = field(default_factory=dict)
    head_keys: tuple[str, str] | None = None
    stock_multiple: str | None = None
    kernel_multiple: int = 1
    writes_head_dim: bool = False
    staged: bool = False
    layer_lists: tuple[str, ...] = ("layer_types",)
    requires: tuple[Requirement, ...] = ()
    variants: tuple["ArchSpec", ...] = ()

    @property
    def reads_tokens(self) -> bool:
        """Whether there is a row of an embedding for each token of a vocabulary."""
        return any(weight.in_ == Space.VOCAB for weight in self.embeddings)

    @property
    def written(self) -> Space:
        """The tokens that the model writes: those that `token_vectors` have a number for."""
        return self.head.out if self.head is not None else Space.VOCAB

    @property
    def mixture(self) -> Mixture | None:
        """The experts of the first stack that has some."""
        return next((stack.mixture for stack in self.stacks if stack.mixture is not None), None)

    @property
    def kind(self) -> NormKind:
        """The kind of the norms through which the residual stream is read, in models whose stream can be narrowed."""
        assert self.final_norm is not None
        return self.final_norm.kind

    @property
    def norms(self) -> tuple[Norm, ...]:
        """The norms of one layer of each stack."""
        return tuple(norm for stack in self.stacks for norm in stack.norms)

    def config_keys(self, space: Space) -> tuple[str, ...]:
        """Return the config keys that state the size of a space; none where no key does."""
        keys = self.stock_keys.get(space, ())
        return (keys,) if isinstance(keys, str) else keys

    def refusal(self, space: Space) -> str | None:
        """Say why a space cannot be narrowed at all: what its norms forbid, or what `refusals` says."""
        if space in self.refusals:
            return self.refusals[space]
        if space == Space.RESIDUAL and any(norm.on_output for norm in self.norms):
            return "there are norms on what sublayers write, which a change of basis cannot pass"
        if space == Space.HEADS and any(norm.over in GROUPED for norm in self.norms):
            return "the norms on queries and keys run over all heads at once"
        if space == Space.RESIDUAL and (
            self.final_norm is None or len(self.stacks) > 1 or self._has_untouched_parameters
        ):
            return "its residual stream is not described in full"
        return None

    @property
    def residual_norms(self) -> tuple[Norm, ...]:
        """The norms of one layer that read the residual stream, in order of execution, of models with one stack."""
        return tuple(norm for norm in self.norms if norm.over == Space.RESIDUAL and not norm.on_output)

    @property
    def _has_untouched_parameters(self) -> bool:
        return bool(self.untouched_parameters) or any(stack.untouched_parameters for stack in self.stacks)
