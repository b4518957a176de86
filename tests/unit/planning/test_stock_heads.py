"""Numbers of heads that a stock config has no width for: Llama's wants a multiple of its query heads."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from neuromeld import Calibration, compress_model, make_plan, parse_recipe
from neuromeld.errors import UserInputError


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 96}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=8, num_key_value_heads=4)).eval()


def recipe(**stages):
    return parse_recipe({"calibration": Calibration(tokens=1536, seqlen=16).model_dump()} | stages)


def test_they_are_native_and_load_again(tmp_path):
    model, ids = llama(), torch.randint(96, (4, 16))
    plan = make_plan(model, recipe(heads={"num_kv_heads": 3}))
    assert plan.format == "native"
    small = compress_model(model, plan, [{"input_ids": ids}] * 2).model
    expected = small(input_ids=ids).logits
    small.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(input_ids=ids).logits, expected)


@pytest.mark.parametrize(("stages", "stock"), [({"num_kv_heads": 2}, True), ({"num_kv_heads": 3}, False)])
def test_only_what_divides_is_stock(stages, stock):
    model, asked = llama(), recipe(heads=stages, output="stock")
    if stock:
        assert make_plan(model, asked).format == "stock"
        return
    with pytest.raises(UserInputError, match="multiple of its 6 query heads"):
        make_plan(model, asked)


def test_a_narrower_stream_is_rounded_to_them():
    plan = make_plan(llama(), recipe(heads={"num_kv_heads": 3}, width={"hidden_ratio": 0.8}, output="stock"))
    assert plan.after.hidden % 6 == 0
