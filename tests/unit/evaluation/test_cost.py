import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import MixtralConfig, MixtralForCausalLM

from neuromeld.errors import CheckpointError
from neuromeld.evaluation import bytes_on_disk, bytes_per_token, flops_per_token, unique_parameters

CONTEXT = 16
LLAMA_LAYER = 12 * 24 + 2 * 12 * 12 + 24 * 12 + 3 * 12 * 20
"""Entries of q, k and v, o, and the three matrices of the feed-forward network."""


@pytest.fixture
def mixtral() -> MixtralForCausalLM:
    sizes = {"hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4}
    experts = {"num_local_experts": 5, "num_experts_per_tok": 2, "experts_implementation": "eager"}
    return MixtralForCausalLM(
        MixtralConfig(vocab_size=37, num_key_value_heads=2, head_dim=6, **sizes, **experts)
    ).eval()


def counted_by_torch(model, tokens):
    model.set_attn_implementation("eager")  # torch does not count the CPU's fused attention
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, tokens, dtype=torch.int64), use_cache=False)
    return counter.get_total_flops()


def test_a_llama_counted_by_hand(llama):
    head, attention = 12 * 37, CONTEXT * 4 * 6
    assert flops_per_token(llama, context=CONTEXT) == 2 * (3 * LLAMA_LAYER + head) + 4 * 3 * attention


def test_bytes_of_a_llama_counted_by_hand(llama):
    head, keys_and_values = 12 * 37, CONTEXT * 3 * 2 * 12
    assert bytes_per_token(llama, context=CONTEXT) == 4 * (3 * LLAMA_LAYER + head + keys_and_values)
    assert bytes_per_token(llama.bfloat16(), context=CONTEXT) == 2 * (3 * LLAMA_LAYER + head + keys_and_values)


def test_bytes_count_the_experts_that_a_token_is_sent_to(mixtral):
    attention, expert, router = 2 * 12 * 24 + 2 * 12 * 12, 3 * 12 * 20, 5 * 12
    entries = 2 * (attention + 2 * expert + router) + 12 * 37
    assert bytes_per_token(mixtral, context=0) == 4 * entries


@pytest.mark.parametrize("family", ["llama", "untied_llama", "gpt2", "mixtral"])
def test_flops_are_those_that_torch_counts(family, request):
    model = request.getfixturevalue(family)
    assert CONTEXT * flops_per_token(model, context=CONTEXT) == counted_by_torch(model, CONTEXT)


def test_tying_the_head_saves_no_time(llama, untied_llama):
    assert flops_per_token(llama, context=CONTEXT) == flops_per_token(untied_llama, context=CONTEXT)


def test_a_shared_feed_forward_saves_no_time(llama):
    before = flops_per_token(llama, context=CONTEXT)
    llama.model.layers[2].mlp = llama.model.layers[0].mlp
    assert flops_per_token(llama, context=CONTEXT) == before


def test_parameters_are_counted_once_however_often_they_are_used(llama, untied_llama):
    norms, embedding = 7 * 12, 12 * 37
    assert unique_parameters(llama) == 3 * LLAMA_LAYER + norms + embedding
    assert unique_parameters(untied_llama) == unique_parameters(llama) + embedding
    llama.model.layers[2].mlp.up_proj.weight = llama.model.layers[0].mlp.up_proj.weight
    assert unique_parameters(llama) == 3 * LLAMA_LAYER + norms + embedding - 12 * 20


def test_bytes_are_those_of_the_written_files(llama, tmp_path):
    llama.save_pretrained(tmp_path, max_shard_size="8KB")
    files = list(tmp_path.glob("*.safetensors"))
    assert len(files) > 1
    headers = sum(8 + int.from_bytes(file.read_bytes()[:8], "little") for file in files)
    assert bytes_on_disk(tmp_path) == 4 * unique_parameters(llama) + headers
    assert bytes_on_disk(str(tmp_path)) == bytes_on_disk(tmp_path)


def test_bytes_are_those_of_pickled_files_where_there_are_no_others(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"x" * 100)
    assert bytes_on_disk(tmp_path) == 100
    (tmp_path / "model.safetensors").write_bytes(b"x" * 90)
    assert bytes_on_disk(tmp_path) == 90


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="holds no"):
        bytes_on_disk(tmp_path)
