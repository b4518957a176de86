"""ALBERT without a masked head: one layer that runs many times, behind tables of a width of their own."""

from neuromeld.archs.families.bert import module, three_tables
from neuromeld.archs.families.electra import with_tables_apart
from neuromeld.archs.spec import ArchSpec, Norm, Requirement, Space, Stack, Weight

SHARED = "one layer runs many times, and statistics are taken of layers that run once"


def _encoder(model_class: str, *heads: str, prefix: str = "albert.") -> ArchSpec:
    attention = ("attention.query", "attention.key", "attention.value")
    encoder = ArchSpec(
        model_type="albert",
        model_class=model_class,
        inputs="sentences",
        has_loss=False,
        embeddings=three_tables(prefix),
        embedding_norm=Norm(f"{prefix}embeddings.LayerNorm", "layer"),
        stacks=(
            Stack(
                layers=f"{prefix}encoder.albert_layer_groups.0.albert_layers",
                runs_key="num_hidden_layers",
                weights=(
                    *(Weight(path, in_=Space.RESIDUAL, out=Space.HEADS) for path in attention),
                    Weight("attention.dense", in_=Space.HEADS, out=Space.RESIDUAL),
                    Weight("ffn", in_=Space.RESIDUAL, out=Space.FFN),
                    Weight("ffn_output", in_=Space.FFN, out=Space.RESIDUAL),
                ),
                norms=(
                    Norm("attention.LayerNorm", "layer", on_output=True),
                    Norm("full_layer_layer_norm", "layer", on_output=True),
                ),
            ),
        ),
        untouched_parameters=tuple(name for head in (f"{prefix}pooler", *heads) for name in module(head)),
        refusals=dict.fromkeys(
            (Space.FFN, Space.HEADS, Space.RESIDUAL, "drop_layers", "remove_ffns", "share_ffns"), SHARED
        ),
        requires=(
            Requirement("num_hidden_groups", 1, "several layers that run many times"),
            Requirement("inner_group_num", 1, "several layers that run in turn"),
        ),
    )
    return with_tables_apart(encoder, f"{prefix}encoder.embedding_hidden_mapping_in", always=True)


MORE = (
    _encoder("AlbertModel", prefix=""),
    _encoder("AlbertForSequenceClassification", "classifier"),
    _encoder("AlbertForTokenClassification", "classifier"),
    _encoder("AlbertForQuestionAnswering", "qa_outputs"),
)
