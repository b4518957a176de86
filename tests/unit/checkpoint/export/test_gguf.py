"""GGUF files: other readers find the model in them, and a file that differs is told."""

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from neuromeld.checkpoint.export.engines import verdicts
from neuromeld.checkpoint.export.form import Content
from neuromeld.checkpoint.export.forms import FORMS
from neuromeld.checkpoint.export.gguf_families import gguf_reasons
from neuromeld.checkpoint.export.gguf_file import rope_factors
from neuromeld.checkpoint.export.gguf_tokenizer import tokenizer_metadata
from neuromeld.checkpoint.export.shape import shape_of
from neuromeld.errors import CheckpointError, UnsupportedModelError
from result_tables.serving import KINDS
from unit.checkpoint.export.models import FAMILIES, build, ragged, tokenizer
from unit.checkpoint.export.test_weights import logits

FORM = FORMS["gguf"]


def written(model, folder, quantize=None):
    content = Content(model, tokenizer(), quantize)
    assert FORM.reasons(shape_of(model.config), model.config) == []
    FORM.write(content, folder)
    FORM.compare(content, folder)
    (path,) = folder.glob("*.gguf")
    return path


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
def test_transformers_reads_the_same_model(family, tmp_path):
    model = build(family)
    path = written(model, tmp_path)
    options = {"dtype": torch.float32, "quantization_config": GgufConfig(dequantize=True)}
    found = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, **options)
    torch.testing.assert_close(logits(found), logits(model), rtol=0, atol=0)


def test_transformers_reads_the_same_tokenizer(tmp_path):
    path = written(build("llama"), tmp_path)
    found, ours = AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name), tokenizer()
    text = "in the name of the 33 thieves\n"
    assert found(text, add_special_tokens=False)["input_ids"] == ours(text)["input_ids"]
    assert (found.bos_token, found.eos_token) == (ours.bos_token, ours.eos_token)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_written_and_read_again(family, tmp_path):
    tensors = {tensor.name for tensor in gguf.GGUFReader(written(build(family), tmp_path)).tensors}
    assert tensors >= {"token_embd.weight", "output_norm.weight"}


@pytest.mark.parametrize(
    ("family", "widths"), [("llama", (96, 40, 8, 72)), ("qwen2", (96, 40, 8, 72)), ("llama", (96, 0, 8, 72))]
)
def test_widths_by_layer_are_of_the_architecture_deci(family, widths, tmp_path):
    reader = gguf.GGUFReader(written(ragged(family, widths), tmp_path))
    assert reader.get_field("general.architecture").contents() == "deci"
    assert reader.get_field("deci.feed_forward_length").contents() == [max(width, 1) for width in widths]
    assert reader.get_field("deci.attention.head_count_kv").contents() == [2, 2, 2, 2]


def test_quantised_rows_are_filled_up_to_whole_blocks(tmp_path):
    reader = gguf.GGUFReader(written(ragged("llama"), tmp_path, "q8_0"))
    assert reader.get_field("deci.feed_forward_length").contents() == [96, 64, 32, 96]
    kinds = {tensor.tensor_type for tensor in reader.tensors if len(tensor.shape) == 2}
    assert kinds == {gguf.GGMLQuantizationType.Q8_0}


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_table_says_of_llama_cpp_is_what_is_written_quantised_or_not(kind, tmp_path):
    model = KINDS[kind]()
    (said,) = (one for one in verdicts(model.config) if one.engine == "llama.cpp")
    if said.how is None:
        assert "shared" in kind or FORM.reasons(shape_of(model.config), model.config)
        return
    for quantize in (None, "q8_0"):
        written(model, tmp_path, quantize).unlink()


def test_half_precision_stays_as_it_is(tmp_path):
    kinds = {torch.bfloat16: gguf.GGMLQuantizationType.BF16, torch.float16: gguf.GGMLQuantizationType.F16}
    for dtype, kind in kinds.items():
        path = written(build("llama").to(dtype), tmp_path)
        assert {t.tensor_type for t in gguf.GGUFReader(path).tensors if len(t.shape) == 2} == {kind}
        path.unlink()


def test_a_file_that_differs_is_told(tmp_path):
    model = build("llama")
    path = written(model, tmp_path)
    stored = next(tensor for tensor in gguf.GGUFReader(path, "r+").tensors if tensor.name == "blk.2.attn_k.weight")
    stored.data[3, 5] += np.float32(0.01)
    del stored
    with pytest.raises(CheckpointError, match="blk.2.attn_k.weight"):
        FORM.compare(Content(model, tokenizer()), tmp_path)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (ragged("qwen3"), "does not compute what qwen3 does"),
        (build("llama", hidden_act="gelu"), "its activation is gelu"),
        (build("gemma3_text", query_pre_attn_scalar=16), "divides by the head's width"),
        (build("olmo2", tie_word_embeddings=True), "a head of its own"),
        (build("olmo2", hidden_size=96), "as wide as the stream"),
        (build("smollm3", no_rope_layers=[1, 1, 0, 1, 1]), "every fourth layer"),
    ],
    ids=["qwen3", "gelu", "gemma3", "tied", "heads", "smollm3"],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(model, reason):
    (found,) = gguf_reasons(shape_of(model.config), model.config)
    assert reason in found


def test_frequencies_of_llama_3_are_those_of_transformers():
    rope = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    plain, scaled = build("llama"), build("llama", rope_parameters=rope)
    expected = plain.model.rotary_emb.inv_freq / scaled.model.rotary_emb.inv_freq
    torch.testing.assert_close(rope_factors(scaled.config), expected, rtol=1e-5, atol=1e-6)
    assert rope_factors(plain.config) is None


def test_a_tokenizer_that_llama_cpp_does_not_have_is_refused():
    strange = tokenizer()
    from tokenizers import Regex, pre_tokenizers

    strange.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\d"), "isolated")
    with pytest.raises(UnsupportedModelError, match="prepares text in a way"):
        tokenizer_metadata(strange, 304)
