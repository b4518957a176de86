"""Tell what an engine asks of a checkpoint before it loads it: family, sizes by layer, and what only our code runs."""

from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig

from neuromeld.archs.spec import Space
from neuromeld.model.native.modeling import native_model_type

SHARED = "FFNs that share weights"
NARROW_TABLE = "a matrix between a narrow embedding and the stream"


@dataclass(frozen=True)
class Shape:
    """The sizes of a checkpoint by layer, read off its config.

    model_type      of the stock family
    native          whether a stock config cannot say it
    hidden          width of the residual stream
    ffn             hidden neurons of each layer; 0 where the FFN was removed; none where the config does not say
    num_heads       query heads of each layer
    num_kv_heads    key-value heads of each layer
    shared          whether several FFNs are one set of weights
    own_code        what no engine but transformers with neuromeld's code runs
    """

    model_type: str
    native: bool
    hidden: int
    ffn: tuple[int, ...]
    num_heads: tuple[int, ...]
    num_kv_heads: tuple[int, ...]
    shared: bool = False
    own_code: tuple[str, ...] = ()

    @property
    def ragged(self) -> bool:
        """Whether FFNs differ in width between layers."""
        return len(set(self.ffn)) > 1

    @property
    def ragged_heads(self) -> bool:
        """Whether attention differs in its number of heads between layers."""
        return len(set(self.num_kv_heads)) > 1


def shape_of(config: PretrainedConfig) -> Shape:
    """Return the shape of the model that a config describes, stock or native."""
    block: dict[str, Any] = getattr(config, "neuromeld", {})
    layers = int(getattr(config, "num_hidden_layers", 0) or 0)
    widths = block.get("widths", {})
    ffn = widths.get(Space.FFN, getattr(config, "intermediate_size", None))
    heads = getattr(config, "num_attention_heads", None) or 0
    heads = heads if isinstance(heads, int) else 0  # stages have numbers of their own
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    by_layer = [heads] * layers
    if Space.HEADS in widths:
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        by_layer = [channels // head_dim for channels in widths[Space.HEADS]]
    return Shape(
        model_type=str(config.model_type).removeprefix(native_model_type("")),
        native=bool(block),
        hidden=widths.get(Space.RESIDUAL, getattr(config, "hidden_size", None) or 0),
        ffn=tuple(ffn) if isinstance(ffn, list) else (ffn,) * layers if isinstance(ffn, int) else (),
        num_heads=tuple(by_layer),
        num_kv_heads=tuple(count * kv_heads // heads for count in by_layer) if heads else (),
        shared=bool(block.get("shared") or block.get("gains") or block.get("low_rank")),
        own_code=_own_code(block),
    )


def _own_code(block: dict[str, Any]) -> tuple[str, ...]:
    what = {
        "shortcuts": "several bases of the residual stream",
        "head_adapter": "a matrix between the stream and the tied head",
        "token_scale": "a scale for each token",
        "narrow_tables": NARROW_TABLE,
    }
    return tuple(name for key, name in what.items() if block.get(key))
