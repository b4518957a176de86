"""Fewer tokens, for every architecture that reads any: the logits of those that stay, in configs that name them."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import OPTForCausalLM, PreTrainedTokenizerFast

from contract.families import FAMILIES, batches_for, build, inputs_for
from contract.kinds import SPECS
from neuromeld import compress_model, make_plan, parse_recipe
from neuromeld.checkpoint import save_checkpoint
from neuromeld.data.text.usage import OF_TOKENS
from neuromeld.errors import UnsupportedModelError, UserInputError
from neuromeld.evaluation import flops_per_token, unique_parameters
from neuromeld.model.native.classes import auto_class
from neuromeld.model.outputs import outputs
from neuromeld.model.surgery import reversible
from neuromeld.planning.pipeline import job_of, run_stages
from neuromeld.planning.plan import CONTEXT, meta_model

READERS = [family for family, spec in SPECS.items() if spec.reads_tokens]
LETTERS = "abcdefgh"
SPECIAL = ["<pad>", "</s>", "<s>", "<unk>"]
KEPT = 61


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """97 pieces: special ones, letters, and pairs of these."""
    pairs = [a + b for a in LETTERS for b in LETTERS] + [3 * a for a in LETTERS] + [4 * a for a in LETTERS]
    pieces = [*SPECIAL, *LETTERS, *pairs]
    while len(pieces) < 97:
        pieces.append(LETTERS[len(pieces) - 92] * 5)
    backend = Tokenizer(models.Unigram([(piece, -float(n)) for n, piece in enumerate(pieces)], unk_id=3))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", bos_token="<s>", unk_token="<unk>"
    )


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("text") / "pairs.jsonl"
    words = [a + b for a in LETTERS[:5] for b in LETTERS]
    path.write_text("\n".join(json.dumps({"text": " ".join(words[n:] + words[:n])}) for n in range(40)))
    return f"file:{path}"


def recipe(text: str, **given: object):
    return parse_recipe(
        {"vocabulary": {"text": text, "size": KEPT}, "calibration": {"tokens": 1536, "seqlen": 16}} | given
    )


@pytest.mark.parametrize("family", READERS)
def test_logits_of_tokens_that_stay_are_as_before(family, tokenizer, text, tmp_path):
    model = build(family, dtype=torch.float32)
    chosen = recipe(text)
    plan = make_plan(model, chosen)
    assert plan == make_plan(meta_model(model.config), chosen, dtype=torch.float32)
    inputs = inputs_for(model, 2)
    full = build(family, dtype=torch.float32)
    compressed = compress_model(model, plan, batches_for(model, 24), processor=tokenizer)
    kept = torch.tensor(compressed.results["vocabulary"].vocabulary.kept)
    assert len(kept) == KEPT
    assert set(range(len(SPECIAL) + len(LETTERS))) <= set(kept.tolist())
    new = torch.randint(KEPT, (2, 9), generator=torch.Generator().manual_seed(0))
    both = [
        outputs(one, inputs | {name: ids for name in OF_TOKENS if name in inputs})
        for one, ids in ((full, kept[new]), (model, new))
    ]
    expected = both[0][..., kept] if SPECS[family].head else both[0]
    torch.testing.assert_close(both[1], expected)
    assert unique_parameters(model) == plan.parameters_after
    assert flops_per_token(model, context=CONTEXT) == plan.flops_after
    save_checkpoint(model, compressed.processor, tmp_path, recipe_yaml=chosen.to_yaml())
    again = auto_class(type(model)).from_pretrained(tmp_path)
    fresh = inputs | {name: new for name in OF_TOKENS if name in inputs}
    torch.testing.assert_close(outputs(again, fresh), both[1])
    assert again.config.vocab_size == KEPT


@pytest.mark.parametrize("family", ["llama", "llama-tied", "bloom"])
def test_with_every_other_stage(family, tokenizer, text, tmp_path):
    model = build(family, dtype=torch.float32)
    width = {"width": {"hidden_size": 18, "basis": "run:2"}, "drop_layers": {"layers": [1]}}
    plan = make_plan(model, recipe(text, **width))
    done = compress_model(model, plan, batches_for(model), processor=tokenizer)
    save_checkpoint(model, done.processor, tmp_path, recipe_yaml=plan.recipe.to_yaml())
    again = auto_class(type(model)).from_pretrained(tmp_path)
    assert unique_parameters(again) == plan.parameters_after
    new = {"input_ids": torch.arange(KEPT)[None, :30]}
    torch.testing.assert_close(outputs(again, new), outputs(model, new))


def test_configs_name_the_same_tokens(tokenizer, text):
    model = build("llama", dtype=torch.float32)
    names = {
        "suppress_tokens": [7, 96, 5000],
        "pad_token_id": 5000,
        "forced_decoder_ids": [[1, 95], [2, None]],
        "eos_token_id": [1, 94],
    }
    for key, value in names.items():
        setattr(model.generation_config, key, value)
    model.config.eos_token_id = 94
    done = compress_model(model, make_plan(model, recipe(text)), batches_for(model, 24), processor=tokenizer)
    new_id = {old: new for new, old in enumerate(done.results["vocabulary"].vocabulary.kept)}
    generation = model.generation_config
    assert generation.suppress_tokens == [7, new_id[96]]
    assert generation.pad_token_id is None
    assert generation.forced_decoder_ids == [[1, new_id[95]], [2, None]]
    assert generation.eos_token_id == [1, new_id[94]]
    assert model.config.eos_token_id == new_id[94]
    assert model.config.pad_token_id == 0


def test_images_and_strange_tokenizers_are_refused(tokenizer, text):
    with pytest.raises(UnsupportedModelError, match="vit models have no vocabulary"):
        make_plan(meta_model(FAMILIES["vit"]()), recipe(text))
    model = build("llama", dtype=torch.float32)
    plan = make_plan(model, recipe(text))
    with pytest.raises(UserInputError, match="pass it as processor="):
        compress_model(model, plan, batches_for(model, 24))
    other = deepcopy(tokenizer)
    other.add_tokens(["beyond"])
    with pytest.raises(UserInputError, match="up to 97, and the embedding has 97 rows"):
        compress_model(model, plan, batches_for(model, 24), processor=other)


FACTORED = [family for family, spec in SPECS.items() if spec.reads_tokens and spec.head and len(spec.stacks) == 1]


@pytest.mark.parametrize("family", FACTORED)
def test_embedding_of_full_rank_changes_nothing_and_of_lower_rank_is_saved(family, tokenizer, tmp_path):
    settings = {"output": "native", "calibration": {"tokens": 1536, "seqlen": 16}}
    full, narrow = (parse_recipe({"embedding": {"rank": rank}} | settings) for rank in (1.0, 0.75))
    model = build(family, dtype=torch.float32)
    inputs = inputs_for(model, 2)
    expected = outputs(model, inputs)
    done = compress_model(model, make_plan(model, full), batches_for(model, 24)).model
    torch.testing.assert_close(outputs(done, inputs), expected, rtol=1e-3, atol=1e-3)
    model = build(family, dtype=torch.float32)
    plan = make_plan(model, narrow)
    done = compress_model(model, plan, batches_for(model, 24)).model
    assert unique_parameters(done) == plan.parameters_after
    assert flops_per_token(done, context=CONTEXT) == plan.flops_after
    save_checkpoint(done, tokenizer, tmp_path, recipe_yaml=narrow.to_yaml())
    again = auto_class(type(done)).from_pretrained(tmp_path)
    torch.testing.assert_close(outputs(again, inputs), outputs(done, inputs))


def test_narrow_embedding_is_stock_where_the_config_has_one(tokenizer, tmp_path):
    stock, native = (
        parse_recipe({"embedding": {"rank": 9}, "output": output, "calibration": {"tokens": 1536, "seqlen": 16}})
        for output in ("auto", "native")
    )
    model = build("opt", dtype=torch.float32)
    inputs, plan = inputs_for(model, 2), make_plan(model, stock)
    before = outputs(model, inputs)
    with reversible(model):
        run_stages(job_of(model, plan, batches_for(model)), plan)
    torch.testing.assert_close(outputs(model, inputs), before, rtol=0, atol=0)
    compress_model(model, plan, batches_for(model))
    save_checkpoint(model, tokenizer, tmp_path, recipe_yaml=stock.to_yaml())
    again = OPTForCausalLM.from_pretrained(tmp_path)
    assert (plan.format, again.config.word_embed_proj_dim) == ("stock", 9)
    assert unique_parameters(again) == plan.parameters_after
    assert flops_per_token(again, context=CONTEXT) == plan.flops_after
    other = build("opt", dtype=torch.float32)
    compress_model(other, make_plan(other, native), batches_for(other))
    torch.testing.assert_close(outputs(again, inputs), outputs(other, inputs))


@pytest.mark.parametrize("family", ["t5", "bert-encoder", "vit"])
def test_embedding_that_cannot_be_factored_is_refused(family):
    with pytest.raises(UnsupportedModelError, match="the embedding cannot be narrowed in"):
        make_plan(meta_model(FAMILIES[family]()), parse_recipe({"embedding": {"rank": 0.5}}))


@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_narrow_embedding_goes_with_a_narrow_stream_and_fewer_tokens(family, tokenizer, text, tmp_path):
    others = {"width": {"hidden_size": 18, "basis": "run:2"}, "embedding": {"rank": 9}}
    model = build(family, dtype=torch.float32)
    plan = make_plan(model, recipe(text, **others))
    done = compress_model(model, plan, batches_for(model), processor=tokenizer)
    save_checkpoint(model, done.processor, tmp_path, recipe_yaml=plan.recipe.to_yaml())
    again = auto_class(type(model)).from_pretrained(tmp_path)
    assert unique_parameters(again) == plan.parameters_after
    new = {"input_ids": torch.arange(KEPT)[None, :30]}
    torch.testing.assert_close(outputs(again, new), outputs(model, new))
