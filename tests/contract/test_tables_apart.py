"""Tables of a width of their own, in front of a norm: what is narrowed is stock, and exact where nothing is lost."""

from copy import deepcopy

import pytest
import torch
import transformers
from transformers import AlbertConfig, ElectraConfig

from contract.families import randomise
from neuromeld import compress_model, make_plan, parse_recipe
from neuromeld.archs.spec import Space
from neuromeld.errors import UnsupportedModelError, UserInputError
from neuromeld.evaluation import flops_per_token, unique_parameters
from neuromeld.model.native.classes import auto_class
from neuromeld.model.outputs import outputs
from neuromeld.planning.plan import CONTEXT, architecture_of, meta_model
from neuromeld.stages.embedding.apart import directions, zero_sum

SIZES = {
    "vocab_size": 97,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
}
ENCODERS = {
    "ElectraModel": ElectraConfig(embedding_size=24, **SIZES),
    "ElectraForPreTraining": ElectraConfig(embedding_size=16, **SIZES),
    "ElectraForSequenceClassification": ElectraConfig(embedding_size=24, **SIZES),
    "ElectraForTokenClassification": ElectraConfig(embedding_size=16, **SIZES),
    "ElectraForQuestionAnswering": ElectraConfig(embedding_size=16, **SIZES),
    "AlbertModel": AlbertConfig(embedding_size=16, **SIZES),
    "AlbertForSequenceClassification": AlbertConfig(embedding_size=24, **SIZES),
    "AlbertForTokenClassification": AlbertConfig(embedding_size=16, **SIZES),
    "AlbertForQuestionAnswering": AlbertConfig(embedding_size=16, **SIZES),
}
CALIBRATION = {"calibration": {"tokens": 1536, "seqlen": 16}}


def encoder(name):
    torch.manual_seed(0)
    model = getattr(transformers, name)(deepcopy(ENCODERS[name])).eval()
    randomise(model)
    return model


def batches():
    torch.manual_seed(1)
    return [{"input_ids": torch.randint(2, 97, (4, 16))} for _ in range(24)]


def inputs():
    return {"input_ids": torch.randint(2, 97, (3, 16), generator=torch.Generator().manual_seed(2))}


def recipe(rank, **stages):
    return parse_recipe({"embedding": {"rank": rank}, **stages} | CALIBRATION)


@pytest.mark.parametrize("name", ENCODERS)
def test_what_lies_in_few_directions_stays_the_same(name, tmp_path):
    model = encoder(name)
    tables = [model.get_submodule(table.path) for table in architecture_of(model).spec.embeddings]
    few = torch.randn(7, tables[0].weight.shape[1])
    with torch.no_grad():
        for table in tables:
            table.weight.copy_(torch.randn(len(table.weight), 7) @ few + torch.randn(len(table.weight), 1))
    expected = outputs(model, inputs())
    plan = make_plan(model, recipe(8))
    assert plan.format == "stock"
    done = compress_model(model, plan, batches()).model
    torch.testing.assert_close(outputs(done, inputs()), expected, rtol=1e-4, atol=1e-4)
    assert unique_parameters(done) == plan.parameters_after
    assert flops_per_token(done, context=CONTEXT) == plan.flops_after
    done.save_pretrained(tmp_path)
    again = type(done).from_pretrained(tmp_path)
    assert again.config.embedding_size == 8
    torch.testing.assert_close(outputs(again, inputs()), outputs(done, inputs()), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["ElectraModel", "AlbertForSequenceClassification"])
def test_more_directions_lose_less(name):
    lost = []
    for rank in (5, 11, 15):
        model = encoder(name)
        done = compress_model(model, make_plan(model, recipe(rank)), batches())
        lost.append(done.record()["embedding"]["lost"])
    assert 1 > lost[0] > lost[1] > lost[2] > 0


def test_directions_are_the_leading_ones_of_what_is_read_as_it_is():
    """No basis loses less where the norm is all that reads; sums of zero stay."""
    torch.manual_seed(0)
    a = torch.nn.functional.layer_norm(torch.randn(400, 12, dtype=torch.float64) * torch.rand(12) ** 2, (12,))
    found = directions(a.T @ a, torch.eye(12, dtype=torch.float64), 5)

    def lost(basis):
        return (a - a @ basis @ basis.T).square().sum()

    assert all(lost(found) < lost(torch.linalg.qr(found + 0.1 * torch.randn(12, 5)).Q) for _ in range(50))
    for basis in (found, zero_sum(6)):
        torch.testing.assert_close(basis.T @ basis, torch.eye(5, dtype=torch.float64))
        torch.testing.assert_close(basis.sum(dim=0), torch.zeros(5, dtype=torch.float64))


def test_it_goes_with_ffns_of_several_widths(tmp_path):
    model = encoder("ElectraForTokenClassification")
    plan = make_plan(model, recipe(8, ffn={"size": [16, 24, 32]}))
    assert plan.format == "native"
    done = compress_model(model, plan, batches()).model
    done.save_pretrained(tmp_path)
    assert unique_parameters(done) == plan.parameters_after
    again = auto_class(type(done)).from_pretrained(tmp_path)
    torch.testing.assert_close(outputs(again, inputs()), outputs(done, inputs()), rtol=0, atol=0)


@pytest.mark.parametrize(("model_type", "name"), [("electra", "ElectraForMaskedLM"), ("albert", "AlbertForMaskedLM")])
def test_a_masked_head_reads_the_table_too(model_type, name):
    config = (ElectraConfig if model_type == "electra" else AlbertConfig)(embedding_size=16, **SIZES)
    config.architectures = [name]
    with pytest.raises(UnsupportedModelError, match="embedding|nothing was proved"):
        make_plan(meta_model(config), recipe(8))


def test_what_cannot_be_is_refused():
    with pytest.raises(UserInputError, match="at least 2, and less than their width of 16"):
        make_plan(encoder("AlbertModel"), recipe(1.0))
    with pytest.raises(UnsupportedModelError, match="one layer runs many times"):
        make_plan(encoder("AlbertModel"), parse_recipe({"ffn": {"ratio": 0.5}} | CALIBRATION))


def test_tables_are_apart_from_the_stream():
    arch = architecture_of(encoder("ElectraForPreTraining"))
    assert (arch.widths[Space.EMBEDDING], arch.width, arch.runs) == (16, 24, 1)
    assert architecture_of(encoder("AlbertModel")).runs == 3
