"""Tiny random models of every family, built from transformers configs: the models of the contract suite."""

from collections.abc import Callable

import torch
from transformers import (
    BertConfig,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    Olmo3Config,
    OPTConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    RobertaConfig,
    SmolLM3Config,
    StableLmConfig,
)

from neuromeld.archs import spec_for
from neuromeld.archs.classes import stock_class

VOCABULARY = 97
WIDTH = 24

GATED = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
NEOX = {name: value for name, value in GATED.items() if name != "num_key_value_heads"}
BERT = NEOX | {"num_attention_heads": 4, "type_vocab_size": 2}
FALCON = {name: value for name, value in NEOX.items() if name != "intermediate_size"} | {"ffn_hidden_size": 40}
MIXED = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2}

FAMILIES: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: LlamaConfig(**GATED, head_dim=4, tie_word_embeddings=False),
    "llama-tied": lambda: LlamaConfig(**GATED, head_dim=4, tie_word_embeddings=True),
    "llama-biased": lambda: LlamaConfig(**GATED, head_dim=8, attention_bias=True, mlp_bias=True),
    "mistral": lambda: MistralConfig(**GATED, sliding_window=8, tie_word_embeddings=False),
    "qwen2": lambda: Qwen2Config(**GATED, tie_word_embeddings=True),
    "qwen3": lambda: Qwen3Config(**GATED, head_dim=8, tie_word_embeddings=True),
    "smollm3": lambda: SmolLM3Config(
        **GATED, no_rope_layer_interval=2, use_sliding_window=True, sliding_window=8, tie_word_embeddings=False
    ),
    "phi3": lambda: Phi3Config(**GATED, sliding_window=8),
    "stablelm": lambda: StableLmConfig(**GATED, use_qkv_bias=True),
    "olmo2": lambda: Olmo2Config(**GATED),
    "olmo3": lambda: Olmo3Config(**GATED, **MIXED),
    "granite": lambda: GraniteConfig(
        **GATED, embedding_multiplier=3.0, residual_multiplier=0.4, attention_multiplier=0.6, logits_scaling=2.0
    ),
    "gemma": lambda: GemmaConfig(**GATED, head_dim=8),
    "gemma2": lambda: Gemma2Config(**GATED, **MIXED, head_dim=8, query_pre_attn_scalar=8),
    "gemma3_text": lambda: Gemma3TextConfig(**GATED, **MIXED, head_dim=8, query_pre_attn_scalar=8),
    "gpt_neox": lambda: GPTNeoXConfig(**NEOX, rope_parameters={"rope_theta": 1e4, "partial_rotary_factor": 0.5}),
    "gpt_neox-sequential": lambda: GPTNeoXConfig(**NEOX, use_parallel_residual=False, attention_bias=False),
    "opt": lambda: OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        ffn_dim=40,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=64,
        word_embed_proj_dim=WIDTH,
        dropout=0.0,
    ),
    "bloom": lambda: BloomConfig(vocab_size=VOCABULARY, hidden_size=WIDTH, n_layer=4, n_head=4),
    "gpt2": lambda: GPT2Config(vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=4, n_head=4, n_positions=64),
    "gpt2-untied": lambda: GPT2Config(
        vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=4, n_head=4, n_positions=64, tie_word_embeddings=False
    ),
    "mixtral": lambda: MixtralConfig(**GATED, num_local_experts=3, num_experts_per_tok=2),
    "qwen3_moe": lambda: Qwen3MoeConfig(
        **GATED, head_dim=8, moe_intermediate_size=40, num_experts=3, num_experts_per_tok=2, tie_word_embeddings=True
    ),
    "falcon": lambda: FalconConfig(**FALCON),
    "falcon-all-heads": lambda: FalconConfig(
        **FALCON, multi_query=False, bias=True, alibi=True, tie_word_embeddings=False
    ),
    "bert": lambda: BertConfig(**BERT),
    "bert-encoder": lambda: BertConfig(**BERT, architectures=["BertModel"]),
    "bert-classifier": lambda: BertConfig(**BERT, architectures=["BertForSequenceClassification"]),
    "roberta": lambda: RobertaConfig(**BERT, tie_word_embeddings=False),
    "roberta-encoder": lambda: RobertaConfig(**BERT, architectures=["RobertaModel"]),
    "roberta-classifier": lambda: RobertaConfig(**BERT, architectures=["RobertaForSequenceClassification"]),
}


def build(family: str, *, dtype: torch.dtype = torch.float64, seed: int = 0) -> PreTrainedModel:
    """A random model, see `randomise`."""
    torch.manual_seed(seed)
    config = FAMILIES[family]()
    if dtype == torch.float64:
        config._experts_implementation = "eager"  # the others know no float64
    return randomise(stock_class(config)._from_config(config).to(dtype).eval())


@torch.no_grad()
def randomise(model: PreTrainedModel) -> PreTrainedModel:
    """The model with no parameter left at a special value: gains are not 1, biases and norms' biases not 0."""
    for name, parameter in model.named_parameters():
        spread = 0.4 if parameter.dim() == 1 else 1.5 / parameter.shape[-1] ** 0.5
        parameter.copy_(
            torch.randn_like(parameter) * spread + (1.0 if "norm" in name.lower() and "weight" in name else 0)
        )
    return model


def tokens(num: int = 96, *, length: int = 16, seed: int = 1) -> torch.Tensor:
    """Random token windows, (num, length)."""
    return torch.randint(0, VOCABULARY, (num, length), generator=torch.Generator().manual_seed(seed))


def exact_norms(model: PreTrainedModel) -> PreTrainedModel:
    """The model with transformers' RMSNorms, which compute in float32 whatever they are given, in float64."""
    for name, module in list(model.named_modules()):
        if hasattr(module, "variance_epsilon"):
            norm = torch.nn.RMSNorm(module.weight.shape, eps=module.variance_epsilon, dtype=module.weight.dtype)
            norm.weight = module.weight
            parent, _, child = name.rpartition(".")
            model.get_submodule(parent).add_module(child, norm)
    return model


def batches_for(model: PreTrainedModel, num: int = 96) -> list[dict[str, torch.Tensor]]:
    """Calibration data of the kind that a model reads."""
    ids = tokens(num)
    if spec_for(model.config.model_type, [type(model).__name__]).inputs != "masked":
        return [{"input_ids": part} for part in ids.split(8)]
    labels = torch.where(tokens(num, seed=2) < 15, tokens(num, seed=3), -100)
    return [{"input_ids": part, "labels": wanted} for part, wanted in zip(ids.split(8), labels.split(8), strict=True)]
