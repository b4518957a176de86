"""RoBERTa: BERT's encoder with positions counted from the padding token on."""

from neuromeld.archs.families.bert import module, post_norm_encoder

SPEC = post_norm_encoder(
    "roberta",
    "RobertaForMaskedLM",
    prefix="roberta.",
    inputs="masked",
    head="lm_head.decoder",
    token_vectors=("lm_head.bias",),
    untouched_parameters=(*module("lm_head.dense"), *module("lm_head.layer_norm"), "lm_head.bias"),
)

MORE = (
    post_norm_encoder(
        "roberta", "RobertaModel", prefix="", inputs="sentences", untouched_parameters=module("pooler.dense")
    ),
    post_norm_encoder(
        "roberta",
        "RobertaForSequenceClassification",
        prefix="roberta.",
        inputs="sentences",
        untouched_parameters=(*module("classifier.dense"), *module("classifier.out_proj")),
    ),
)
