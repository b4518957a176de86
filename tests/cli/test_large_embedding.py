"""Budgets of models with large embeddings: what is said of these, unasked, and fewer tokens where a text is named."""

import json
import re
import shutil

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from cli.commands import CALIBRATION
from neuromeld import Budget, Calibration, calibration_batches, make_plan, parse_recipe
from neuromeld.checkpoint.source import locate
from neuromeld.jobs.large_embedding import said_of_embedding
from neuromeld.planning.plan import meta_model
from tiny import save_model, save_text
from vocabularies import save_byte_level


@pytest.fixture
def text(tmp_path):
    save_text(tmp_path / "text.jsonl")
    return f"file:{tmp_path / 'text.jsonl'}"


@pytest.fixture
def large(tmp_path):
    """The tiny model with many more rows than its tokenizer has tokens."""
    save_model(tmp_path / "tiny")
    shutil.copytree(tmp_path / "tiny", tmp_path / "large", ignore=shutil.ignore_patterns("*.safetensors"))
    config = LlamaConfig.from_pretrained(tmp_path / "tiny")
    config.vocab_size = 2000
    LlamaForCausalLM(config).to(torch.float32).save_pretrained(tmp_path / "large")
    return tmp_path / "large"


def test_a_large_embedding_is_told_with_its_use_and_what_would_meet_the_budget(cli, large, text):
    shape = ["--calibration", text, *CALIBRATION]
    code, stdout, stderr = cli("plan", large, "--ffn-size", 24, *shape, "--json")
    assert code == 0, stderr
    (said,) = json.loads(stdout)["told"]
    calibration = Calibration(source=text, tokens=2048, seqlen=32)
    used = torch.cat([batch["input_ids"].flatten() for batch in calibration_batches(str(large), calibration)]).unique()
    assert re.fullmatch(rf"the embedding is \d\d% of the parameters; 2,048 .* use {len(used)} of 2,000 rows", said)
    _, ways = said_of_embedding(locate(str(large)), calibration, Budget(keep=0.8))
    rows, rank = (int(re.search(rf"{option} (\d+)", ways)[1]) for option in ("--vocab-size", "--embedding-rank"))
    model = meta_model(LlamaConfig.from_pretrained(large))
    for size, stage in ((rows, "vocabulary"), (rank, "embedding")):
        kept = [make_plan(model, recipe(stage, size + more)).kept_ratio for more in (0, 1)]
        assert kept[0] <= 0.8 < kept[1]


def recipe(stage: str, size: int):
    options = {"text": "wikipedia-sample", "size": size} if stage == "vocabulary" else {"rank": size}
    return parse_recipe({stage: options})


def test_a_small_embedding_is_not_told(cli, text, tmp_path):
    save_model(tmp_path / "tiny")
    code, stdout, _ = cli("plan", tmp_path / "tiny", "--ffn-size", 24, "--calibration", text, *CALIBRATION, "--json")
    assert code == 0
    assert json.loads(stdout)["told"] == []


def test_a_model_without_a_tokenizer_is_planned_all_the_same(cli, large):
    (large / "tokenizer.json").unlink()
    code, stdout, stderr = cli("plan", large, "--ffn-size", 24, "--json")
    assert code == 0, stderr
    (said,) = json.loads(stdout)["told"]
    assert said.endswith("% of the parameters")


def test_a_budget_is_met_by_fewer_tokens_where_a_text_is_named(cli, tmp_path):
    model, out = tmp_path / "model", tmp_path / "out"
    text = save_byte_level(model)
    shape = ["--calibration", text, *CALIBRATION, "--json"]
    code, stdout, stderr = cli("compress", model, out, "--keep", 0.95, "--vocab-from", text, *shape)
    assert code == 0, stderr
    record = json.loads(stdout)
    assert record["kept_ratio"] <= 0.95
    offered = {one["name"]: one["measured_loss"] or one["first_loss"] for one in record["candidates"]}
    assert "fewer tokens" in offered
    assert record["evaluation"][0]["bits_per_byte_before"] > 0
    code, _, stderr = cli("plan", model, "--keep", 0.95, "--vocab-from", text, "--vocab-ratio", 0.5, *shape)
    assert code == 2
    assert "--vocab-ratio 0.5: with a budget the planner chooses the stages" in " ".join(stderr.split())


def test_fewer_tokens_are_reported_in_bits_per_byte(cli, tmp_path):
    model, out = tmp_path / "model", tmp_path / "out"
    text = save_byte_level(model)
    options = ["--vocab-from", text, "--vocab-size", 300, "--calibration", text, *CALIBRATION]
    code, stdout, stderr = cli("compress", model, out, *options)
    assert code == 0, stderr
    record = json.loads((out / "record.json").read_text())
    (measured,) = record["evaluation"]
    assert "perplexity_before" not in measured
    said = " ".join(stdout.split())
    assert f"bits per byte {measured['bits_per_byte_before']:.4f} -> {measured['bits_per_byte']:.4f}" in said
    before, after = record["vocabulary"]["before"], record["vocabulary"]["after"]
    assert (before, after) == (420, 300)
    report = (out / "report.html").read_text()
    assert "The vocabulary" in report
    assert "its per byte" in report
    assert f"Of {before} tokens, the {after} stayed" in " ".join(report.split())
