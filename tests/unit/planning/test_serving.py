"""The memory of a served model against the tensors that a model and its cache really hold."""

import gguf
import pytest
import torch

from contract.families import build
from neuromeld import Budget, compress_model, make_plan, parse_recipe
from neuromeld.archs.sizes import sizes_of
from neuromeld.checkpoint.export.form import Content
from neuromeld.checkpoint.export.forms import FORMS
from neuromeld.checkpoint.export.quantised import bytes_per_weight
from neuromeld.errors import UserInputError
from neuromeld.planning.plan import architecture_of
from neuromeld.planning.serving import Serving
from unit.checkpoint.export.models import build as exported
from unit.checkpoint.export.models import tokenizer
from unit.planning.test_planner import batches, settings

HEADS = {"heads": {"num_kv_heads": 1}}


@pytest.mark.parametrize(("family", "heads"), [("llama-tied", HEADS), ("gpt2", {}), ("qwen3", HEADS)])
@pytest.mark.parametrize("dtype", [None, "float16"])
def test_bytes_are_those_of_the_weights_and_of_the_cache(family, heads, dtype):
    model, recipe = build(family), parse_recipe(settings() | {"ffn": {"size": 16}} | heads)
    serving = Serving(batch=2, context=7, dtype=dtype)
    share = Budget(memory=10_000, serving=serving).share(model, recipe)
    plan = make_plan(model, recipe)
    small = compress_model(model, plan, batches()).model
    if dtype is not None:
        small = small.to(getattr(torch, dtype))
    cache = small(input_ids=torch.ones(2, 7, dtype=torch.long), use_cache=True).past_key_values
    held = sum(parameter.nbytes for parameter in small.parameters())
    held += sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert share * 10_000 == pytest.approx(held)


@pytest.mark.parametrize("tied", [True, False])
def test_bytes_of_blocks_of_8_bits_are_those_of_the_file_that_is_written(tied, tmp_path):
    model = exported("llama", tie_word_embeddings=tied)
    form = FORMS["gguf"]
    form.write(Content(model, tokenizer(), "q8_0"), tmp_path)
    (path,) = tmp_path.glob("*.gguf")
    written = sum(tensor.n_bytes for tensor in gguf.GGUFReader(path).tensors)
    arch, serving = architecture_of(model), Serving(batch=1, context=1, dtype="q8_0")
    cache = Serving(batch=1, context=2, dtype="q8_0")
    found, twice = (
        one.num_bytes(model.num_parameters(), arch, sizes_of(arch, model.config), model.config, model.dtype)
        for one in (serving, cache)
    )
    assert found - (twice - found) == pytest.approx(written, rel=0.02)


def test_rows_that_are_no_whole_blocks_are_written_in_larger_ones():
    assert bytes_per_weight("q8_0", 576) == 34 / 32
    assert bytes_per_weight("q4_k_m", 1536) == 144 / 256
    assert bytes_per_weight("q4_k_m", 1536, raised=0.5) == (144 + 210) / 512
    assert bytes_per_weight("q4_k_m", 576) == 22 / 32
    assert bytes_per_weight("q4_k_m", 576, raised=1) == bytes_per_weight("q6_k", 576, raised=0.5) == 34 / 32
    assert bytes_per_weight("q5_k_m", 20) == 2


def test_a_model_that_fits_as_it_comes_is_left_alone():
    model = build("llama-tied")
    with pytest.raises(UserInputError, match=r"is served in \d+\.\d MB, which --memory allows"):
        Budget(memory=10**9).check_needed(model, architecture_of(model))
    Budget(memory=1000).check_needed(model, architecture_of(model))
    Budget(keep=0.5).check_needed(model, architecture_of(model))


@pytest.mark.parametrize(
    ("given", "message"),
    [({"dtype": "int8"}, "unknown served dtype"), ({"batch": 0}, "at least 1"), ({"context": -1}, "at least 1")],
)
def test_a_way_of_serving_that_there_is_not(given, message):
    with pytest.raises(UserInputError, match=message):
        Serving(**given)


def test_memory_is_a_budget_of_its_own():
    with pytest.raises(UserInputError, match="give one budget"):
        Budget(memory=10, keep=0.5)
