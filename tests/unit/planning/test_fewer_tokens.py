"""The planner where a text says which tokens may stay: what it offers then, and losses on the same text."""

import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from neuromeld import Budget, Calibration, compress_model, make_plan
from neuromeld.archs.sizes import embedding_share
from neuromeld.archs.spec import Space
from neuromeld.data.text import TokenWindows, respelled
from neuromeld.planning import Planner
from neuromeld.planning.candidates import SearchSpace, candidates
from neuromeld.planning.effort import EFFORTS
from neuromeld.planning.plan import architecture_of
from neuromeld.planning.sensitivity import fisher_scores
from neuromeld.stages.vocabulary import vocabulary_range
from vocabularies import TEXT, trained

CALIBRATION = Calibration(tokens=512, seqlen=32)
SETTINGS = {"calibration": CALIBRATION.model_dump()}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=trained("byte-level"), eos_token="</s>")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    path.write_text("\n".join(json.dumps({"text": TEXT[:200] + str(n)}) for n in range(40)))
    return f"file:{path}"


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "max_position_embeddings": 128}
    return LlamaForCausalLM(LlamaConfig(vocab_size=420, tie_word_embeddings=True, **sizes)).eval()


def windows(tokenizer: PreTrainedTokenizerFast, text: str, num: int) -> TokenWindows:
    ids = torch.tensor((tokenizer(text)["input_ids"] * 100)[: 32 * num]).view(num, 32)
    return TokenWindows(ids, "a text", "validation", "", torch.ones_like(ids))


def batches(found: TokenWindows) -> list[dict[str, torch.Tensor]]:
    return [{"input_ids": ids} for ids in found.input_ids.split(4)]


def space(model, tokenizer, text: str | None, output: str = "auto", keep: float = 0.85) -> SearchSpace:
    arch = architecture_of(model)
    scores = fisher_scores(model, arch, batches(windows(tokenizer, TEXT, 4)))
    sizes = None if text is None else vocabulary_range(model, tokenizer, text)
    return SearchSpace(model, arch, Budget(keep=keep), scores, SETTINGS | {"output": output}, sizes)


@pytest.mark.parametrize("output", ["stock", "auto"])
@pytest.mark.parametrize("keep", [0.95, 0.8])
def test_fewer_tokens_are_offered_where_a_text_is_given_and_meet_the_budget(model, tokenizer, text, output, keep):
    without = candidates(space(model, tokenizer, None, output, keep))
    assert all(one.recipe.vocabulary is None for one in without)
    found = candidates(space(model, tokenizer, text, output, keep))
    assert [one.name for one in found if one.recipe.vocabulary is None] == [one.name for one in without]
    fewer = [one for one in found if one.recipe.vocabulary is not None]
    assert "0.75 of the tokens, narrower FFNs" in {one.name for one in fewer} or keep == 0.95
    assert any(one.name == "fewer tokens" for one in fewer) == (keep == 0.95)
    for one in fewer:
        plan = make_plan(model, one.recipe)
        assert plan.kept_ratio <= keep
        assert output == "auto" or plan.format == "stock"


def test_a_large_embedding_may_become_narrower_and_no_other(model, tokenizer):
    found = candidates(space(model, tokenizer, None, "native"))
    names = [one.name for one in found if one.recipe.embedding is not None]
    assert "narrower embedding" in names
    assert all(make_plan(model, one.recipe).kept_ratio <= 0.85 for one in found)
    small = space(model, tokenizer, None, "native")
    small.arch.widths[Space.VOCAB] = 40
    assert embedding_share(model, small.arch) < 1 / 3
    assert not any(one.recipe.embedding is not None for one in candidates(small))


@pytest.mark.parametrize(("rows", "streams"), [(420, 2), (40, 0)])
def test_little_effort_builds_narrower_streams_of_a_large_embedding_only(model, tokenizer, rows, streams):
    large = space(model, tokenizer, None, "native")
    everything = candidates(large)
    large.arch.widths[Space.VOCAB] = rows
    assert sum(one.narrows_stream for one in EFFORTS["quick"].promising(large, everything)) == streams
    assert sum(one.narrows_stream for one in EFFORTS["standard"].promising(large, everything)) == 2


def test_losses_are_of_the_same_text_whatever_its_tokens(model, tokenizer, text):
    """Without tokens that the text does not use: the loss is that of the model whose other logits are shut out."""
    held = batches(windows(tokenizer, TEXT[:200], 8))
    planner = Planner(model, Budget(keep=0.9), CALIBRATION, "auto", held, held, processor=tokenizer, vocab_from=text)
    one = next(one for one in candidates(space(model, tokenizer, text, keep=0.95)) if one.name == "fewer tokens")
    used = torch.cat([batch["input_ids"].flatten() for batch in held]).unique()
    with torch.no_grad(), planner._built(one, held, held, planner.journal) as job:
        found = planner._losses(held, job.processor)
        kept = torch.tensor(job.processor.convert_tokens_to_ids(tokenizer.convert_ids_to_tokens(used)))
        assert len(kept.unique()) == len(used)  # so the text is split as before
        assert model.config.vocab_size < 420
    shut_out = torch.ones(420, dtype=torch.bool)
    shut_out[[tokenizer.convert_tokens_to_ids(token) for token in job.processor.get_vocab()]] = False
    for batch, (nats, count) in zip(held, found, strict=True):
        ids = batch["input_ids"]
        logits = model(input_ids=ids).logits[:, :-1].detach().masked_fill(shut_out, -torch.inf)
        expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
        assert count == ids[:, 1:].numel()
        assert nats == pytest.approx(float(expected), rel=1e-5)
    assert model.config.vocab_size == 420


def test_what_is_measured_with_fewer_tokens_can_be_done(model, tokenizer, text):
    data, held = batches(windows(tokenizer, TEXT[:200], 16)), batches(windows(tokenizer, TEXT[:200], 8))
    planner = Planner(model, Budget(keep=0.95), CALIBRATION, "stock", data, held, processor=tokenizer, vocab_from=text)
    fewer = next(one for one in planner.choose().candidates if one.name == "fewer tokens")
    assert fewer.first_loss < 0  # what the text does not use is no longer taken into account
    done = compress_model(model, make_plan(model, fewer.recipe), data, processor=tokenizer)
    assert done.processor.decode(done.processor("Die Straße", add_special_tokens=False)["input_ids"]) == "Die Straße"


@pytest.mark.parametrize("most", [None, 16])
def test_windows_that_are_spelled_anew_hold_the_same_text(tokenizer, most):
    before = windows(tokenizer, TEXT.replace("ß", "ss"), 6)
    after = PreTrainedTokenizerFast(tokenizer_object=trained("unigram-bytes"), eos_token="</s>")
    found = respelled(before, tokenizer, after, most)
    rows = [ids[mask.bool()] for ids, mask in zip(found.input_ids, found.attention_mask, strict=True)]
    joined = "".join(after.convert_ids_to_tokens(torch.cat(rows))).replace("▁", " ")
    expected = "".join(tokenizer.decode(ids) for ids in before.input_ids)
    assert "".join(joined.split()) == "".join(expected.split())
    assert most is None or found.input_ids.shape[1] == most
    assert int(found.num_bytes.sum()) == len(expected.encode())
