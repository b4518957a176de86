"""Tiny random models, stock and native, in eval mode and float32, and a tokenizer for them.

Native models keep attention and FFN as they were, 12 wide, and have a residual stream of `width`.
"""

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BloomConfig,
    GPT2Config,
    LlamaConfig,
    OPTConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from neuromeld.archs import ARCHITECTURES
from neuromeld.checkpoint import save_checkpoint
from neuromeld.model.native.modeling import native_model

VOCAB, D = 37, 12
IDS = torch.arange(20).reshape(2, 10)
RECIPE = "width:\n  hidden_size: 8\n"

LLAMA = {
    "vocab_size": VOCAB,
    "hidden_size": D,
    "intermediate_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "max_position_embeddings": 64,
}
STOCK_CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**LLAMA, tie_word_embeddings=True),
    "gpt2": GPT2Config(vocab_size=VOCAB, n_embd=D, n_layer=3, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2),
    "opt": OPTConfig(
        vocab_size=VOCAB,
        hidden_size=D,
        word_embed_proj_dim=D,
        ffn_dim=20,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=64,
    ),
    "bloom": BloomConfig(vocab_size=VOCAB, hidden_size=D, n_layer=3, n_head=4),
}

PLAIN = {
    "resized": [],
    "shared": [],
    "gains": [],
    "low_rank": [],
    "shortcuts": [],
    "narrow_tables": [],
    "head_adapter": False,
    "token_scale": None,
    "identity": None,
}
BLOCKS = {
    "llama": PLAIN | {"layers": ["model.layers"], "head": "lm_head"},
    "gpt2": PLAIN
    | {
        "layers": ["transformer.h"],
        "head": "lm_head",
        "resized": [
            ["transformer.wte", "out", "residual"],
            ["transformer.wpe", "out", "residual"],
            ["transformer.h.*.ln_1", "both", "residual"],
            ["transformer.h.*.attn.c_attn", "in", "residual"],
            ["transformer.h.*.attn.c_proj", "out", "residual"],
            ["transformer.h.*.ln_2", "both", "residual"],
            ["transformer.h.*.mlp.c_fc", "in", "residual"],
            ["transformer.h.*.mlp.c_proj", "out", "residual"],
            ["transformer.ln_f", "both", "residual"],
            ["lm_head", "in", "residual"],
        ],
    },
    "opt": PLAIN
    | {
        "layers": ["model.decoder.layers"],
        "head": "lm_head",
        "resized": [
            ["model.decoder.embed_tokens", "out", "residual"],
            ["model.decoder.embed_positions", "out", "residual"],
            ["model.decoder.layers.*.self_attn_layer_norm", "both", "residual"],
            *(
                ["model.decoder.layers.*.self_attn." + name, "in", "residual"]
                for name in ("q_proj", "k_proj", "v_proj")
            ),
            ["model.decoder.layers.*.self_attn.out_proj", "out", "residual"],
            ["model.decoder.layers.*.final_layer_norm", "both", "residual"],
            ["model.decoder.layers.*.fc1", "in", "residual"],
            ["model.decoder.layers.*.fc2", "out", "residual"],
            ["model.decoder.final_layer_norm", "both", "residual"],
            ["lm_head", "in", "residual"],
        ],
    },
    "bloom": PLAIN
    | {
        "layers": ["transformer.h"],
        "head": "lm_head",
        "token_scale": "transformer.word_embeddings",
        "identity": "transformer.word_embeddings_layernorm",
        "resized": [
            ["transformer.word_embeddings", "out", "residual"],
            ["transformer.h.*.input_layernorm", "both", "residual"],
            ["transformer.h.*.self_attention.query_key_value", "in", "residual"],
            ["transformer.h.*.self_attention.dense", "out", "residual"],
            ["transformer.h.*.post_attention_layernorm", "both", "residual"],
            ["transformer.h.*.mlp.dense_h_to_4h", "in", "residual"],
            ["transformer.h.*.mlp.dense_4h_to_h", "out", "residual"],
            ["transformer.ln_f", "both", "residual"],
            ["lm_head", "in", "residual"],
        ],
    },
}


def randomise(model: PreTrainedModel) -> PreTrainedModel:
    """Every parameter random, gains and biases too: nothing is right by being a default."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator) * 0.3
        gain = "norm" in name or "ln_" in name or name.endswith(".scale")
        parameter.data = noise + 1 if gain and not name.endswith("bias") else noise
    return model.eval()


def stock_class(family: str) -> type[PreTrainedModel]:
    return getattr(transformers, ARCHITECTURES[family].model_class)


def build_stock(family: str, **changes) -> PreTrainedModel:
    config = type(STOCK_CONFIGS[family]).from_dict(STOCK_CONFIGS[family].to_dict() | changes)
    return randomise(stock_class(family)(config))


def build_native(family: str, *, width: int = 8, **changes) -> PreTrainedModel:
    """`changes` are for the `neuromeld` block, or else for the config."""
    model_class = native_model(stock_class(family))
    config_class = model_class.config_class
    block = (
        BLOCKS[family]
        | {"widths": {"residual": width}}
        | {key: changes.pop(key) for key in list(changes) if key in PLAIN}
    )
    block["resized"] = [[*entry, "weight"] for entry in block["resized"]]
    stated = STOCK_CONFIGS[family].to_dict() | {"model_type": config_class.model_type} | changes
    if family == "llama":
        stated["hidden_size"] = width
    return randomise(model_class(config_class.from_dict(stated | {"neuromeld": block})))


def cast(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Weights in another dtype, and the rotary frequencies left in float32, as in a model that was loaded so."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def narrow(family: str) -> PreTrainedModel:
    return build_native(family, shortcuts=[1, 2], head_adapter=True)


@torch.no_grad()
def logits_of(model: PreTrainedModel) -> torch.Tensor:
    return model(input_ids=IDS, use_cache=False).logits


def write(model: PreTrainedModel, folder: Path, **options) -> Path:
    folder.mkdir()
    save_checkpoint(model, build_tokenizer(), folder, recipe_yaml=RECIPE, **options)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def build_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, VOCAB)}
    tiny = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tiny.pre_tokenizer = pre_tokenizers.Whitespace()
    built = PreTrainedTokenizerFast(tokenizer_object=tiny, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    built.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    return built
