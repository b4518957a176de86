"""ruaccent as a Marian model; code and no folder, since it is a class of its own, which transformers cannot load.

It writes stress marks into Russian text; the package is ruaccent-predictor.

It is torch's post-norm `nn.Transformer` over characters: what `MarianMTModel` computes, and one more LayerNorm on top
of each stack; its output head is a matrix of its own, with a bias.  It was trained on inputs padded to 256 characters,
without a mask.
"""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from transformers import BatchEncoding, MarianConfig, MarianMTModel, PreTrainedTokenizerFast

from neuromeld.archs.families.marian import SPEC as MARIAN

RENAMED = {
    r"^embed\.char_embed\.": "model.shared.",
    r"^transformer\.": "model.",
    r"^output_proj\.": "lm_head.",
    r"\.multihead_attn\.": ".encoder_attn.",
    r"\.linear(\d)\.": r".fc\1.",
    r"\.norm1\.": ".self_attn_layer_norm.",
    r"(encoder\.layers\.\d+)\.norm2\.": r"\1.final_layer_norm.",
    r"(decoder\.layers\.\d+)\.norm2\.": r"\1.encoder_attn_layer_norm.",
    r"\.norm3\.": ".final_layer_norm.",
}


class Ruaccent(MarianMTModel):
    """Marian with `norm` on top of each stack, and an output head apart from the embedding."""

    def __init__(self, config: MarianConfig) -> None:
        super().__init__(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size)
        self.model.set_input_embeddings(self.model.shared)
        for stack in (self.model.encoder, self.model.decoder):
            stack.norm = nn.LayerNorm(config.d_model)
            stack.register_forward_hook(normalise_output)


def normalise_output(stack: nn.Module, _: Any, output: Any) -> Any:
    output.last_hidden_state = stack.norm(output.last_hidden_state)
    return output


class UnmaskedTokenizer(PreTrainedTokenizerFast):
    """Pads what the encoder reads to `model_max_length`; that padding is not masked."""

    def __call__(self, text: Any = None, **options: Any) -> BatchEncoding:
        if text is None:
            return super().__call__(**options)
        encoded = super().__call__(text, **options | {"padding": "max_length", "max_length": self.model_max_length})
        if isinstance(encoded["input_ids"], Tensor):
            encoded["attention_mask"] = torch.ones_like(encoded["input_ids"])
        return encoded


SPEC = replace(
    MARIAN,
    model_class=Ruaccent.__name__,
    untouched_parameters=tuple(
        f"model.{stack}.norm.{name}" for stack in ("encoder", "decoder") for name in ("weight", "bias")
    ),
    requires=tuple(required for required in MARIAN.requires if required.key != "tie_word_embeddings"),
)
"""The norms read what leaves a stack: no method touches them."""


def load(folder: Path) -> tuple[Ruaccent, UnmaskedTokenizer]:
    """Model and tokenizer out of the package's folder `ruaccent/model`; every parameter must come from there."""
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    config = MarianConfig(
        vocab_size=len(vocabulary),
        max_position_embeddings=256,
        d_model=256,
        encoder_layers=4,
        decoder_layers=4,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        encoder_ffn_dim=1024,
        decoder_ffn_dim=1024,
        activation_function="relu",
        scale_embedding=True,
        tie_word_embeddings=False,
        pad_token_id=vocabulary["<pad>"],
        eos_token_id=vocabulary["</s>"],
        forced_eos_token_id=None,
        decoder_start_token_id=vocabulary["<s>"],
    )
    model = Ruaccent(config).eval()
    arrays = torch.load(folder / "acc_model.pt", map_location="cpu", weights_only=True)
    missing, unexpected = model.load_state_dict(state_dict(arrays), strict=False)
    # The buffer is Marian's bias of the head, zero here; the others are the embedding, which all three share.
    others = {"final_logits_bias", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"}
    assert (set(missing), unexpected) == (others, []), (missing, unexpected)
    return model, tokenizer_of(vocabulary)


def state_dict(arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same under the names of transformers, with fused projections apart."""
    state: dict[str, Tensor] = {}
    for name, array in arrays.items():
        if name == "embed.pos_encoding":
            state |= {f"model.{stack}.embed_positions.weight": array[0] for stack in ("encoder", "decoder")}
            continue
        path = name
        for old, new in RENAMED.items():
            path = re.sub(old, new, path)
        if ".in_proj_" in path:
            owner, kind = path.split(".in_proj_")
            parts = zip("qkv", array.chunk(3), strict=True)
            state |= {f"{owner}.{letter}_proj.{kind}": part for letter, part in parts}
        else:
            state[path] = array
    return state


def tokenizer_of(vocabulary: dict[str, int]) -> UnmaskedTokenizer:
    """One token a character, in the frame of `<s>` and `</s>`."""
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Split(Regex("."), "isolated")
    tokenizer.decoder = Fuse()
    frame = [(token, vocabulary[token]) for token in ("<s>", "</s>")]
    tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=frame)
    return UnmaskedTokenizer(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        model_max_length=256,
    )
