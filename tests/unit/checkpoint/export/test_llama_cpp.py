"""llama.cpp computes what transformers does, for every family and every kind of size: where it is installed."""

from importlib.util import find_spec

import pytest
from transformers import AutoTokenizer

from neuromeld.checkpoint.export.form import Content
from neuromeld.checkpoint.export.forms import FORMS
from neuromeld.checkpoint.export.running import by_llama_cpp, by_transformers
from neuromeld.stages.vocabulary.choose import choose_vocabulary
from unit.checkpoint.export.models import FAMILIES, build, ragged, ragged_heads, shared, tokenizer
from vocabularies import TEXT, save_byte_level

pytestmark = pytest.mark.skipif(find_spec("llama_cpp") is None, reason="llama.cpp is not installed: make engines")

IDS = [0, *((number * 37 + 5) % 260 for number in range(40))]
CLOSE, OF_A_TABLE = 1e-4, 2e-2
"""Nats that a log-probability may move; llama.cpp looks up its GELU in a table of float16."""

LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0}
LLAMA3 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 16}

KINDS = {
    **{family: (lambda family=family: build(family)) for family in FAMILIES},
    "part of a head's channels turned": lambda: build(
        "phi3", rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    ),
    "positions of Llama 3": lambda: build("llama", rope_parameters=LLAMA3),
    "linear positions": lambda: build(
        "llama", rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    ),
    "biases": lambda: build("llama", attention_bias=True, mlp_bias=True),
    "a head of its own": lambda: build("llama", tie_word_embeddings=False),
    "widths by layer": lambda: ragged("llama"),
    "widths by layer of qwen2": lambda: ragged("qwen2"),
    "an FFN removed": lambda: ragged("llama", (96, 0, 8, 72)),
    "heads by layer": lambda: ragged_heads("llama"),
    "heads by layer of qwen2": lambda: ragged_heads("qwen2"),
    "shared FFNs, copied": shared,
}


@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_are_those_of_transformers(kind, tmp_path):
    model = KINDS[kind]()
    FORMS["gguf"].write(Content(model, tokenizer()), tmp_path)
    moved = [abs(a - b) for a, b in zip(by_llama_cpp(tmp_path, IDS), by_transformers(model, IDS), strict=True)]
    assert max(moved) < (OF_A_TABLE if kind.startswith("gemma") else CLOSE)


def test_its_quantiser_leaves_one_file(tmp_path):
    FORMS["gguf"].write(Content(build("llama"), tokenizer(), "q6_k"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model-q6_k.gguf"]


def test_a_cut_vocabulary_is_split_and_computed_as_by_transformers(tmp_path):
    llama_cpp = pytest.importorskip("llama_cpp")
    source = save_byte_level(tmp_path / "model")
    before = AutoTokenizer.from_pretrained(tmp_path / "model")
    after = choose_vocabulary(before, source, [304]).processor
    model = ragged("llama")
    FORMS["gguf"].write(Content(model, after), tmp_path)
    moved = [abs(a - b) for a, b in zip(by_llama_cpp(tmp_path, IDS), by_transformers(model, IDS), strict=True)]
    assert max(moved) < CLOSE
    (path,) = tmp_path.glob("*.gguf")
    reader = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    assert before.encode(TEXT) != after.encode(TEXT)
    assert reader.tokenize(TEXT.encode(), add_bos=False) == after.encode(TEXT, add_special_tokens=False)
