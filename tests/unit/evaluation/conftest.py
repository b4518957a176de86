"""Tiny random models built from their configs, in eval mode and float32."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from neuromeld.data.text import TokenWindows

VOCAB = 37


def build_llama(**changes) -> LlamaForCausalLM:
    options = {
        "vocab_size": VOCAB,
        "hidden_size": 12,
        "intermediate_size": 20,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 6,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
    }
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**options | changes)).eval()


@pytest.fixture
def llama() -> LlamaForCausalLM:
    return build_llama()


@pytest.fixture
def untied_llama() -> LlamaForCausalLM:
    return build_llama(tie_word_embeddings=False)


@pytest.fixture
def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=12, n_layer=3, n_head=4, n_positions=64)).eval()


@pytest.fixture
def windows() -> TokenWindows:
    ids = torch.randint(VOCAB, (7, 16), generator=torch.Generator().manual_seed(1))
    return TokenWindows(ids, source="random", split="evaluation", sha256="0" * 64)
