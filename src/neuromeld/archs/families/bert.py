"""BERT: an encoder with LayerNorms behind every residual sum (post-norm), and its masked language model."""

from neuromeld.archs.spec import ArchSpec, Inputs, Norm, Requirement, Space, Stack, Weight

POST_NORM = (
    "its norms stand on the residual stream itself: a square matrix behind each would have to carry the basis past it, "
    "which takes back much of what a narrower stream saves (docs/decisions/0015)"
)


def post_norm_encoder(
    model_type: str,
    model_class: str,
    *,
    prefix: str,
    inputs: Inputs,
    head: str | None = None,
    token_vectors: tuple[str, ...] = (),
    untouched_parameters: tuple[str, ...],
) -> ArchSpec:
    """Return the spec of a model around BERT's encoder.

    prefix  goes before the paths of the encoder
    head    the output head, whose matrix may be the embedding
    token_vectors  vectors with a number for each token, beside the head's bias
    untouched_parameters  parameters of what stands between encoder and head, or in the place of the head
    """
    attention = ("attention.self.query", "attention.self.key", "attention.self.value")
    return ArchSpec(
        model_type=model_type,
        model_class=model_class,
        inputs=inputs,
        has_loss=inputs != "sentences",
        embeddings=three_tables(prefix),
        embedding_norm=Norm(f"{prefix}embeddings.LayerNorm", "layer"),
        stacks=(
            Stack(
                layers=f"{prefix}encoder.layer",
                weights=(
                    *(Weight(path, in_=Space.RESIDUAL, out=Space.HEADS) for path in attention),
                    Weight("attention.output.dense", in_=Space.HEADS, out=Space.RESIDUAL),
                    Weight("intermediate.dense", in_=Space.RESIDUAL, out=Space.FFN),
                    Weight("output.dense", in_=Space.FFN, out=Space.RESIDUAL),
                ),
                norms=(
                    Norm("attention.output.LayerNorm", "layer", on_output=True),
                    Norm("output.LayerNorm", "layer", on_output=True),
                ),
            ),
        ),
        head=Weight(head, in_=Space.RESIDUAL, out=Space.VOCAB) if head else None,
        untouched_parameters=untouched_parameters,
        token_vectors=token_vectors,
        stock_keys={Space.FFN: "intermediate_size"},
        native_only={Space.HEADS: "BERT's config has no head size apart from hidden_size // num_attention_heads"},
        refusals={Space.RESIDUAL: POST_NORM},
        head_keys=("num_attention_heads", "num_attention_heads"),
        requires=(
            Requirement("is_decoder", False, "BERT as a decoder is not described"),
            Requirement("add_cross_attention", False, "cross-attention is not described"),
        ),
    )


def three_tables(prefix: str) -> tuple[Weight, ...]:
    """Return the tables of tokens, positions and token types, whose rows are summed."""
    entries = {"word": Space.VOCAB, "position": Space.POSITIONS, "token_type": Space.TOKEN_TYPES}
    return tuple(
        Weight(f"{prefix}embeddings.{name}_embeddings", in_=entry, out=Space.RESIDUAL, layout="embedding")
        for name, entry in entries.items()
    )


def module(path: str) -> tuple[str, str]:
    """Return the parameters of a module with weight and bias."""
    return (f"{path}.weight", f"{path}.bias")


SPEC = post_norm_encoder(
    "bert",
    "BertForMaskedLM",
    prefix="bert.",
    inputs="masked",
    head="cls.predictions.decoder",
    token_vectors=("cls.predictions.bias",),
    untouched_parameters=(
        *module("cls.predictions.transform.dense"),
        *module("cls.predictions.transform.LayerNorm"),
        "cls.predictions.bias",
    ),
)

MORE = (
    post_norm_encoder("bert", "BertModel", prefix="", inputs="sentences", untouched_parameters=module("pooler.dense")),
    post_norm_encoder(
        "bert",
        "BertForSequenceClassification",
        prefix="bert.",
        inputs="sentences",
        untouched_parameters=(*module("bert.pooler.dense"), *module("classifier")),
    ),
)
