"""Tiny random models of every family, built from transformers configs: the models of the contract suite."""

from collections.abc import Callable

import torch
from transformers import (
    BartConfig,
    BertConfig,
    BloomConfig,
    CLIPVisionConfig,
    DeiTConfig,
    Dinov2Config,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MarianConfig,
    MBartConfig,
    MistralConfig,
    MixtralConfig,
    MT5Config,
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
    T5Config,
    ViTConfig,
    WhisperConfig,
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
PAIR = {
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "encoder_layers": 4,
    "decoder_layers": 4,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 40,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
T5 = {
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "d_ff": 40,
    "num_layers": 4,
    "num_heads": 4,
    "d_kv": 5,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "decoder_start_token_id": 0,
}
VISION = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "image_size": 16,
    "patch_size": 4,
    "num_labels": 5,
}
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
    "marian": lambda: MarianConfig(**PAIR, max_position_embeddings=64, forced_eos_token_id=1),
    "bart": lambda: BartConfig(**PAIR | {"decoder_layers": 5}, max_position_embeddings=64, forced_eos_token_id=1),
    "mbart": lambda: MBartConfig(**PAIR, max_position_embeddings=64, forced_eos_token_id=1),
    "t5": lambda: T5Config(**T5),
    "t5-gated": lambda: T5Config(**T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "mt5": lambda: MT5Config(**T5, tie_word_embeddings=False),
    "whisper": lambda: WhisperConfig(
        **PAIR, num_mel_bins=8, max_source_positions=20, max_target_positions=32, begin_suppress_tokens=None
    ),
    "vit": lambda: ViTConfig(**VISION, intermediate_size=40),
    "vit-encoder": lambda: ViTConfig(**VISION, intermediate_size=40, architectures=["ViTModel"]),
    "deit": lambda: DeiTConfig(**VISION, intermediate_size=40, qkv_bias=False),
    "deit-encoder": lambda: DeiTConfig(**VISION, intermediate_size=40, architectures=["DeiTModel"]),
    "dinov2": lambda: Dinov2Config(**VISION, mlp_ratio=2),
    "dinov2-encoder": lambda: Dinov2Config(**VISION, mlp_ratio=2, architectures=["Dinov2Model"]),
    "clip_vision_model": lambda: CLIPVisionConfig(**VISION, intermediate_size=40),
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
    """The model with no parameter left at a special value: gains are not 1, biases and norms' biases not 0.

    Positions that are not trained stay what they are.
    """
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
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


def inputs_for(model: PreTrainedModel, num: int = 96, *, seed: int = 1) -> dict[str, torch.Tensor]:
    """Inputs of the kind that a model reads, `num` of them, in its own dtype."""
    draw = torch.Generator().manual_seed(seed)
    if model.main_input_name == "pixel_values":
        shape = (num, 3, model.config.image_size, model.config.image_size)
        return {"pixel_values": torch.randn(shape, generator=draw).to(model.dtype)}
    data = {"input_ids": tokens(num, seed=seed)}
    if model.main_input_name == "input_features":
        data = {"input_features": torch.randn(num, 8, 40, generator=draw).to(model.dtype)}
    if model.config.is_encoder_decoder:
        data |= {"decoder_input_ids": tokens(num, length=9, seed=seed + 1)}
    return data


def batches_for(model: PreTrainedModel, num: int = 96) -> list[dict[str, torch.Tensor]]:
    """Calibration data of the kind that a model reads."""
    data = inputs_for(model, num)
    spec = spec_for(model.config.model_type, [type(model).__name__])
    if spec.inputs == "images" and spec.has_loss:
        labels = torch.randint(model.config.num_labels, (num,), generator=torch.Generator().manual_seed(2))
        data |= {"labels": labels}
    if spec.inputs == "masked":
        data |= {"labels": torch.where(tokens(num, seed=2) < 15, tokens(num, seed=3), -100)}
    if model.config.is_encoder_decoder:
        data |= {"labels": tokens(num, length=9, seed=3)}
    parts = {name: value.split(8) for name, value in data.items()}
    return [{name: values[i] for name, values in parts.items()} for i in range(num // 8)]
