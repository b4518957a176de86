"""Native models: what was added does what it says, and the narrow models run, generate, save and load."""

import pytest
import torch

from neuromeld.checkpoint import load_model
from unit.checkpoint.tiny import IDS, STOCK_CONFIGS, build_native, build_stock, cast, logits_of, narrow, write

FAMILIES = sorted(STOCK_CONFIGS)
EXACT = {"rtol": 0, "atol": 0}
ROUNDING = {"rtol": 1e-4, "atol": 1e-4}


def full_width(family, **added):
    """A stock model, and a native one of the same width and weights."""
    stock = build_stock(family, tie_word_embeddings=False)
    without = {"token_scale": None, "identity": None}
    native = build_native(family, width=12, tie_word_embeddings=False, **without | added)
    native.load_state_dict(stock.state_dict(), strict=False)
    return stock, native


@pytest.mark.parametrize("family", FAMILIES)
def test_at_full_width_it_is_the_stock_model(family):
    stock, native = full_width(family)
    assert native.state_dict().keys() == stock.state_dict().keys()
    torch.testing.assert_close(logits_of(native), logits_of(stock), **EXACT)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_adapter_stands_before_the_head(family):
    stock, native = full_width(family, head_adapter=True)
    matrix = torch.randn(12, 12, generator=torch.Generator().manual_seed(1))
    native.head_adapter.weight.data = matrix
    stock.lm_head.weight.data = stock.lm_head.weight @ matrix
    torch.testing.assert_close(logits_of(native), logits_of(stock), **ROUNDING)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shortcut_changes_the_stream_that_enters_its_layer(family):
    stock, native = full_width(family, shortcuts=[1])
    layers = native.get_submodule(native.config.neuromeld["layers"][0])
    matrix = torch.randn(12, 12, generator=torch.Generator().manual_seed(1))
    layers[1].shortcut.weight.data = matrix
    stock_layers = stock.get_submodule(native.config.neuromeld["layers"][0])
    stock_layers[1].register_forward_pre_hook(lambda _, args: (args[0] @ matrix.T, *args[1:]))
    torch.testing.assert_close(logits_of(native), logits_of(stock), **ROUNDING)
    assert not torch.allclose(logits_of(native), logits_of(build_stock(family, tie_word_embeddings=False)), atol=1e-2)


def test_token_scale_is_bloom_embedding_norm_token_by_token():
    embedding, norm = "transformer.word_embeddings", "transformer.word_embeddings_layernorm"
    stock, native = full_width("bloom", token_scale=embedding, identity=norm)
    norm = stock.get_submodule(norm)
    rows = stock.get_submodule(embedding).weight.detach()
    variance = rows.var(dim=1, keepdim=True, correction=0)
    native_embedding = native.get_submodule(embedding)
    native_embedding.weight.data = (rows - rows.mean(dim=1, keepdim=True)) * norm.weight
    native_embedding.scale.data = (variance + norm.eps).rsqrt()
    native_embedding.shift.data = norm.bias.detach().clone()
    torch.testing.assert_close(logits_of(native), logits_of(stock), **ROUNDING)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_narrow_model_runs_and_its_stream_has_the_width(family):
    model = narrow(family)
    streams = model(input_ids=IDS, output_hidden_states=True).hidden_states
    assert {stream.shape[-1] for stream in streams} == {8}
    assert model.get_input_embeddings().weight.shape == (37, 8)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert logits_of(model).shape == (*IDS.shape, 37)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_narrow_model_generates_what_its_logits_say(family):
    model = narrow(family)
    produced = model.generate(
        IDS,
        attention_mask=torch.ones_like(IDS),
        max_new_tokens=4,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    expected = IDS
    for _ in range(4):
        best = model(input_ids=expected, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)
        expected = torch.cat((expected, best), dim=1)
    assert torch.equal(produced, expected)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_narrow_model_comes_back_from_disk(family, dtype, tmp_path):
    model = cast(narrow(family), dtype)
    loaded = load_model(write(model, tmp_path / "native"), dtype=None, device="cpu")
    assert type(loaded) is type(model)
    assert {name: p.shape for name, p in loaded.named_parameters()} == {
        name: p.shape for name, p in model.named_parameters()
    }
    assert loaded.dtype == dtype
    torch.testing.assert_close(logits_of(loaded), logits_of(model), **EXACT)
