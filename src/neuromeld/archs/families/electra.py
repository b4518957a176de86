"""ELECTRA without a masked head: BERT's encoder behind tables of a width of their own."""

from dataclasses import replace

from neuromeld.archs.families.bert import module, post_norm_encoder
from neuromeld.archs.spec import ArchSpec, Space, TablesApart


def with_tables_apart(spec: ArchSpec, up: str, *, always: bool = False) -> ArchSpec:
    """Return the spec of an encoder whose tables are apart from its stream, with the map between them."""
    assert spec.embedding_norm is not None
    norm = replace(spec.embedding_norm, over=Space.EMBEDDING)
    return replace(
        spec,
        embeddings=tuple(replace(table, out=Space.EMBEDDING) for table in spec.embeddings),
        embedding_norm=norm,
        tables_apart=TablesApart("embedding_size", norm.path, up, always),
        untouched_parameters=(*spec.untouched_parameters, *module(up)),
    )


def _discriminator(model_class: str, *heads: str, prefix: str = "electra.") -> ArchSpec:
    encoder = post_norm_encoder(
        "electra",
        model_class,
        prefix=prefix,
        inputs="sentences",
        untouched_parameters=tuple(name for head in heads for name in module(head)),
    )
    return with_tables_apart(encoder, f"{prefix}embeddings_project")


MORE = (
    _discriminator("ElectraModel", prefix=""),
    _discriminator(
        "ElectraForPreTraining", "discriminator_predictions.dense", "discriminator_predictions.dense_prediction"
    ),
    _discriminator("ElectraForSequenceClassification", "classifier.dense", "classifier.out_proj"),
    _discriminator("ElectraForTokenClassification", "classifier"),
    _discriminator("ElectraForQuestionAnswering", "qa_outputs"),
)
