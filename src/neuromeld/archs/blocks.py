"""Weights that many families have, under names of their own."""

from neuromeld.archs.spec import Layout, Space, Weight


def embedding(path: str, rows: Space = Space.VOCAB) -> Weight:
    """Return a table whose rows enter the residual stream."""
    return Weight(path, in_=rows, out=Space.RESIDUAL, layout="embedding")


def output_head(path: str, norm: str | None = None) -> Weight:
    """Return the matrix from the stream, read through a norm, to the vocabulary."""
    return Weight(path, in_=Space.RESIDUAL, out=Space.VOCAB, input_norm=norm)


def attention(path: str, out: str, norm: str | None, kv: Space = Space.KV) -> tuple[Weight, ...]:
    """Return attention with a matrix each, at `path` with q, k or v in it.

    kv   the space of keys and values: that of queries where no heads share them
    """
    spaces = {"q": Space.HEADS, "k": kv, "v": kv}
    read = (Weight(path.format(x), in_=Space.RESIDUAL, out=spaces[x], input_norm=norm) for x in spaces)
    return (*read, Weight(out, in_=Space.HEADS, out=Space.RESIDUAL))


def fused_attention(qkv: str, out: str, norm: str, layout: Layout = "linear") -> tuple[Weight, Weight]:
    """Return attention with queries, keys and values in one matrix."""
    return (
        Weight(qkv, in_=Space.RESIDUAL, out=Space.QKV, input_norm=norm, layout=layout),
        Weight(out, in_=Space.HEADS, out=Space.RESIDUAL, layout=layout),
    )


def plain_ffn(up: str, down: str, norm: str | None, layout: Layout = "linear") -> tuple[Weight, Weight]:
    """Return an FFN of two matrices."""
    return (
        Weight(up, in_=Space.RESIDUAL, out=Space.FFN, input_norm=norm, layout=layout),
        Weight(down, in_=Space.FFN, out=Space.RESIDUAL, layout=layout),
    )
