"""The oracle of ruaccent as a Marian model: torch's own transformer, of which it has the weights."""

import math

import pytest
import torch
from torch import nn
from transformers import MarianConfig

from neuromeld.archs import resolve
from neuromeld.archs.families.marian import SPEC as MARIAN
from neuromeld.errors import UnsupportedModelError
from ruaccent_marian import SPEC, Ruaccent, state_dict, tokenizer_of

SIZES = {"encoder_layers": 2, "decoder_layers": 3, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
HEADS = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
VOCABULARY = {character: i for i, character in enumerate(["<pad>", "<s>", "</s>", "<unk>", *"абв'"])}
POSITIONS = 12


@pytest.fixture
def original():
    torch.manual_seed(0)
    transformer = nn.Transformer(16, 4, 2, 3, 24, dropout=0.0, batch_first=True)
    parts = nn.ModuleDict({
        "embed": nn.ModuleDict({"char_embed": nn.Embedding(len(VOCABULARY), 16)}),
        "transformer": transformer,
        "output_proj": nn.Linear(16, len(VOCABULARY)),
    })  # fmt: skip
    for parameter in parts.parameters():
        nn.init.normal_(parameter, std=0.5)
    parts["embed"].register_buffer("pos_encoding", torch.randn(1, POSITIONS, 16))
    return parts.eval()


@pytest.fixture
def converted(original):
    config = MarianConfig(
        vocab_size=len(VOCABULARY),
        d_model=16,
        max_position_embeddings=POSITIONS,
        activation_function="relu",
        scale_embedding=True,
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=1,
        **SIZES,
        **HEADS,
    )
    model = Ruaccent(config).eval()
    model.load_state_dict(state_dict(original.state_dict()), strict=False)
    return model


@torch.no_grad()
def test_it_computes_what_the_original_computes(original, converted):
    source, target = torch.randint(0, len(VOCABULARY), (2, 3, POSITIONS))

    def embedded(ids):
        return original["embed"]["char_embed"](ids) * math.sqrt(16) + original["embed"].pos_encoding

    causal = nn.Transformer.generate_square_subsequent_mask(POSITIONS)
    hidden = original["transformer"](embedded(source), embedded(target), tgt_mask=causal)
    found = converted(input_ids=source, attention_mask=torch.ones_like(source), decoder_input_ids=target).logits

    torch.testing.assert_close(found, original["output_proj"](hidden), rtol=1e-4, atol=1e-4)


def test_every_parameter_is_claimed_once(converted):
    assert resolve(converted, SPEC).depths == (2, 3)
    with pytest.raises(UnsupportedModelError):
        resolve(converted, MARIAN)


def test_what_is_read_is_padded_without_a_mask_and_comes_back():
    tokenizer = tokenizer_of(VOCABULARY)
    text = "ба'ва"  # noqa: RUF001

    encoded = tokenizer([text], return_tensors="pt")

    assert encoded["input_ids"].shape == (1, tokenizer.model_max_length)
    assert encoded["attention_mask"].all()
    assert tokenizer.decode(encoded["input_ids"][0], skip_special_tokens=True) == text
    assert tokenizer(text_target=text)["input_ids"] == [1, 5, 4, 7, 6, 4, 2]
