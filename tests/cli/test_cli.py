"""The command line as a user meets it: what goes to stdout, what to stderr, and the exit code."""

import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from cli.commands import CALIBRATION, damaged, leftovers
from neuromeld.evaluation import unique_parameters


def test_compress_prints_one_json_object_and_writes_what_it_says(cli, checkpoint, text, tmp_path):
    out = tmp_path / "small"
    code, stdout, _ = cli(
        "compress", checkpoint, out, "--hidden-size", 16, "--calibration", text, *CALIBRATION, "--json"
    )
    assert code == 0
    result = json.loads(stdout)
    assert {"parameters_before", "parameters_after", "kept_ratio", "seconds", "peak_rss_bytes"} <= result.keys()
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.config.hidden_size == 16
    assert type(model).__name__ == "LlamaForCausalLM"
    assert unique_parameters(model) == result["parameters_after"]
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert json.loads((out / "record.json").read_text())["kept_ratio"] == result["kept_ratio"]
    assert leftovers(tmp_path) == ["small"]
    for name in ("README.md", "recipe.yaml", "tokenizer.json", "generation_config.json", "report.html"):
        assert (out / name).is_file()


def test_plan_predicts_what_compress_does(cli, checkpoint, text, tmp_path):
    options = ["--hidden-ratio", 0.7, "--hidden-selector", "mean_abs_activation", "--hidden-merge", "transport",
               "--hidden-basis", "run:2", "--native",
               "--calibration", text, *CALIBRATION, "--json"]  # fmt: skip
    _, stdout, _ = cli("plan", checkpoint, *options)
    plan = json.loads(stdout)
    _, stdout, _ = cli("compress", checkpoint, tmp_path / "out", *options)
    assert json.loads(stdout)["parameters_after"] == plan["parameters_after"]
    assert json.loads(stdout)["format"] == plan["format"] == "native"
    assert plan["after"]["basis_starts"] == [0, 2]


def test_a_budget_is_met_and_the_candidates_are_told(cli, checkpoint, text, tmp_path):
    options = ["--keep", 0.8, "--calibration", text, *CALIBRATION, "--json"]
    code, stdout, stderr = cli("plan", checkpoint, *options)
    assert code == 0, stderr
    plan = json.loads(stdout)
    assert plan["kept_ratio"] <= 0.8
    (chosen,) = [c for c in plan["candidates"] if c["chosen"]]
    least = min(c["measured_loss"] for c in plan["candidates"] if c["measured_loss"] is not None)
    assert chosen["measured_loss"] <= least + chosen["uncertainty"]
    assert leftovers(tmp_path) == []
    _, stdout, _ = cli("compress", checkpoint, tmp_path / "out", *options)
    record = json.loads(stdout)
    assert record["parameters_after"] == plan["parameters_after"]
    assert record["candidates"] == plan["candidates"]
    assert "Candidates" in (tmp_path / "out" / "report.html").read_text()
    code, stdout, _ = cli("plan", checkpoint, "--objective", "flops", *options)
    assert code == 0
    operations = json.loads(stdout)
    assert operations["flops_after"] <= 0.8 * operations["flops_before"]
    code, stdout, _ = cli("plan", checkpoint, "--params", "0.01M", "--stock", *options[2:])
    assert code == 0
    assert json.loads(stdout)["parameters_after"] <= 10_000
    assert json.loads(stdout)["format"] == "stock"


def test_stages_add_up(cli, checkpoint, text, tmp_path):
    out = tmp_path / "out"
    options = ["--drop-layers", 1, "--ffn-ratio", 0.7, "--share-ffns", 2, "--ffn-compensate", "none"]
    code, stdout, _ = cli("compress", checkpoint, out, *options, "--calibration", text, *CALIBRATION, "--json")
    assert code == 0
    record = json.loads(stdout)
    assert record["sizes_after"]["shared_ffns"] == 2
    assert len(record["sizes_after"]["ffn"]) == len(record["sizes_before"]["ffn"]) - 1
    assert {entry["ridge"] for entry in record["ffn"]} == {None}
    assert len(record["dropped_windows"]) == 3
    assert record["window"] == {"start": 0, "end": 1}
    model = AutoModelForCausalLM.from_pretrained(out)
    assert unique_parameters(model) == record["parameters_after"]


def test_recipe_of_the_output_gives_the_same_output_again(cli, checkpoint, text, tmp_path):
    cli("compress", checkpoint, tmp_path / "a", "--hidden-size", 16, "--calibration", text, *CALIBRATION, "--json")
    code, _, _ = cli("compress", checkpoint, tmp_path / "b", "--recipe", tmp_path / "a" / "recipe.yaml", "--json")
    assert code == 0
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_second_ratio_needs_no_forward_pass(cli, checkpoint, text, tmp_path, monkeypatch):
    options = ["--calibration", text, *CALIBRATION, "--no-hidden-refit", "--json"]
    assert cli("compress", checkpoint, tmp_path / "a", "--hidden-size", 16, *options)[0] == 0
    monkeypatch.setattr(importlib.import_module("neuromeld.stages.width.fit"), "collect", None)
    assert cli("compress", checkpoint, tmp_path / "b", "--hidden-size", 12, *options)[0] == 0


def test_evaluate_one_and_several(cli, checkpoint, text, tmp_path):
    cli("compress", checkpoint, tmp_path / "a", "--hidden-size", 16, "--calibration", text, *CALIBRATION)
    options = ["--text", text, "--tokens", 1024, "--seqlen", 32]
    _, stdout, _ = cli("evaluate", checkpoint, *options, "--json")
    single = json.loads(stdout)
    assert {"perplexity", "tokens", "protocol", "peak_rss_bytes"} <= single.keys()
    assert single["tokens"] == 1024 // 32 * 31
    _, stdout, _ = cli("evaluate", checkpoint, tmp_path / "a", *options)
    assert "perplexity" in stdout
    assert "ratio" in stdout
    assert "words.jsonl" in stdout


def test_report_is_drawn_again_from_the_folder(cli, checkpoint, text, tmp_path):
    out = tmp_path / "small"
    options = ["--hidden-selector", "mean_abs_activation", "--hidden-merge", "transport"]
    options += ["--hidden-basis", "run:1", "--hidden-refit"]
    cli("compress", checkpoint, out, "--hidden-size", 16, "--calibration", text, *CALIBRATION, *options)
    written = (out / "report.html").read_text()
    for title in ("Energy kept by run of layers", "Marginal error of the transport", "Held-out error: input_layernorm"):
        assert f"<figcaption>{title}</figcaption>" in written
    (out / "report.html").unlink()
    assert cli("report", out)[0] == 0
    assert (out / "report.html").read_text() == written
    assert cli("report", out, "--out", tmp_path / "again.html")[0] == 0
    assert (tmp_path / "again.html").read_text() == written
    code, _, stderr = cli("report", checkpoint)
    assert code == 5
    assert "record.json" in stderr


def test_every_stage_is_in_the_record_and_on_the_page(cli, checkpoint, text, tmp_path):
    out = tmp_path / "small"
    options = ["--drop-layers", 1, "--num-kv-heads", 1, "--ffn-size", 12, "--hidden-size", 16, "--share-ffns", 2]
    code, stdout, stderr = cli("compress", checkpoint, out, *options, "--calibration", text, *CALIBRATION)
    assert code == 0, stderr
    record = json.loads((out / "record.json").read_text())
    page = (out / "report.html").read_text()
    assert len(record["changes"]) == 5
    for change in record["changes"]:
        assert change in " ".join(stdout.split())
        assert change.replace("->", "→") in page
    titles = ["Removed layers", "Attention heads", "Feed-forward networks", "Shared feed-forward networks"]
    for title in [*titles, "The residual stream"]:
        assert f"<h2>{title}</h2>" in page
    assert f"<td>{record['bytes_on_disk_before']:,}</td>" in page
    assert "The output matrix that they share was refitted" in page


def test_nothing_changed_is_said_without_an_error(cli, checkpoint, text, tmp_path):
    options = ["--ffn-ratio", 1, "--calibration", text, *CALIBRATION]
    code, stdout, stderr = cli("compress", checkpoint, tmp_path / "out", *options)
    assert code == 0, stderr
    assert "1.000 of" in stdout


def test_evaluate_on_tasks(cli, checkpoint, text, tmp_path):
    pytest.importorskip("lm_eval")
    cli("compress", checkpoint, tmp_path / "a", "--hidden-size", 16, "--calibration", text, *CALIBRATION)
    draw = random.Random(0)
    questions = [
        {"q": f"w{draw.randrange(64)}", "c": [f"w{draw.randrange(64)}" for _ in range(2)], "a": draw.randrange(2)}
        for _ in range(20)
    ]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, questions)))
    (tmp_path / "words.yaml").write_text(
        f"task: words\ndataset_path: json\ndataset_kwargs: {{data_files: {tmp_path}/questions.jsonl}}\n"
        "test_split: train\noutput_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: '{{c}}'\n"
        "doc_to_target: a\nmetric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    options = ["--text", text, "--tokens", 64, "--seqlen", 32]
    options += ["--tasks", "words", "--include-path", tmp_path, "--limit", 16]
    _, stdout, _ = cli("evaluate", checkpoint, tmp_path / "a", *options, "--json")
    dense, small = json.loads(stdout)["models"].values()
    accuracies = [found["tasks"]["words"]["accuracy"] for found in (dense, small)]
    retained = small["retained_performance"]
    assert dense["tasks"]["words"]["protocol"]["questions"] == 16
    assert retained["ratio"] == pytest.approx(accuracies[1] / accuracies[0])
    assert retained["low"] <= retained["ratio"] <= retained["high"]
    assert retained == small["tasks"]["words"]["retained"]
    _, stdout, _ = cli("evaluate", checkpoint, tmp_path / "a", *options)
    assert "retained performance" in stdout
    assert "words (acc)" in stdout


def test_options_of_tasks_need_tasks(cli, checkpoint, text):
    code, _, stderr = cli("evaluate", checkpoint, "--text", text, "--limit", 4)
    assert code == 2
    assert "--tasks" in stderr


def test_methods_of_every_stage_are_listed(cli):
    names = {row["name"] for row in json.loads(cli("list", "methods", "--json")[1])["methods"]}
    assert {
        "width selector principal",
        "width decoder pinv",
        "ffn and heads selector wanda",
        "ffn merge kmeans",
    } <= names


@pytest.mark.parametrize("what", ["architectures", "methods", "recipes", "texts"])
def test_list(cli, what):
    assert json.loads(cli("list", what, "--json")[1])[what]
    assert cli("list", what)[0] == 0


def test_probe_says_what_is_described_and_drafts_a_data_file(cli, checkpoint):
    found = json.loads(cli("list", "architectures", "--probe", checkpoint, "--json")[1])
    assert "width" in found["allowed"]["stages"]
    assert found["discovered"]["proved"][0]["ffn_keys"] == ["intermediate_size"]
    assert "model.layers.*.mlp.up_proj.weight" in found["described"]
    assert found["unclaimed"] == found["missing"] == []
    code, stdout, _ = cli("list", "architectures", "--probe", checkpoint)
    assert code == 0
    assert "unclaimed: none" in stdout
    assert "nearest architecture: llama" in stdout
    assert '"LlamaForCausalLM"' in stdout
    assert cli("list", "methods", "--probe", checkpoint)[0] == 2


BAD = {
    "ratio": (["--hidden-ratio", 1.2], 2, "outside (0, 1]"),
    "width of heads": (["--hidden-size", 18], 2, "multiple of its 4 attention heads, so 16 or 20"),
    "too wide": (["--hidden-size", 25], 2, "wider than the model"),
    "selector": (
        ["--hidden-size", 16, "--hidden-selector", "mean_abs_activatio"],
        2,
        "Did you mean 'mean_abs_activation'?",
    ),
    "recipe": (["--recipe", "defaul"], 2, "Did you mean 'default'?"),
    "basis": (["--hidden-size", 16, "--hidden-basis", "run:0"], 2, "run:N"),
    "inert option": (["--hidden-size", 16, "--hidden-regularisation", 0.1], 2, "merge=transport"),
    "stock": (["--hidden-size", 16, "--hidden-basis", "layer", "--stock"], 2, "--native"),
    "tokens": (["--hidden-size", 16, "--calibration-tokens", 8, "--seqlen", 8], 2, "cannot determine a width of 16"),
    "text": (["--hidden-size", 16, "--calibration", "wikipedia"], 2, "Did you mean 'wikipedia-sample'?"),
    "budget": (["--keep", 0.8, "--ffn-ratio", 0.5], 2, "the planner chooses the stages"),
    "two budgets": (["--keep", 0.8, "--flops", 0.5], 2, "give one budget"),
    "objective": (["--keep", 0.8, "--objective", "speed"], 2, "unknown objective 'speed'"),
    "objective of no share": (["--params", "1M", "--objective", "latency"], 2, "says what --keep is a share of"),
    "number": (["--params", "many"], 2, "with K, M or B"),
    "window": (["--share-ffns-at", "0-5"], 2, "the model has 3 FFNs"),
    "no stage": (["--ffn-ratio", 0.5, "--hidden-decoder", "ridge"], 2, "there is no stage width"),
    "layers": (["--drop-layers", 9], 2, "at least one must stay"),
    "device": (["--hidden-size", 16, "--device", "cuda:9"], 2, "--device cuda:9 cannot be used"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_options_give_one_message_and_write_nothing(cli, case, checkpoint, tmp_path):
    options, expected_code, message = BAD[case]
    code, stdout, stderr = cli("compress", checkpoint, tmp_path / "out", *options, "--json")
    assert code == expected_code
    assert message in stderr
    assert "Traceback" not in stderr
    assert stdout == ""
    assert leftovers(tmp_path) == []


def test_every_mistake_of_a_recipe_is_reported_at_once(cli, checkpoint, tmp_path):
    recipe = tmp_path / "bad.yaml"
    recipe.write_text("width: {hidden_ratoi: 0.8, selector: magnitud}\ncalibration: {seqlen: 1}\n")
    code, _, stderr = cli("compress", checkpoint, tmp_path / "out", "--recipe", recipe)
    assert code == 2
    for message in ("hidden_ratio", "seqlen=1"):
        assert message in stderr


def test_few_tokens_warn(cli, checkpoint, text, tmp_path):
    options = ["--hidden-size", 16, "--calibration", text, "--calibration-tokens", 128, "--seqlen", 16]
    code, _, stderr = cli("compress", checkpoint, tmp_path / "out", *options)
    assert code == 0
    assert "128 calibration tokens are few for a width of 16" in stderr


def test_existing_output_is_kept_unless_forced(cli, checkpoint, text, tmp_path):
    options = ["--hidden-size", 16, "--calibration", text, *CALIBRATION]
    out = tmp_path / "out"
    assert cli("compress", checkpoint, out, *options)[0] == 0
    (out / "mark").touch()
    code, _, stderr = cli("compress", checkpoint, out, *options)
    assert code == 2
    assert "--force" in stderr
    code, _, stderr = cli("compress", checkpoint, out, *options, "--force")
    assert code == 2
    assert "did not write: mark" in stderr
    (out / "mark").unlink()
    before = (out / "model.safetensors").stat().st_ino
    assert cli("compress", checkpoint, out, *options, "--force")[0] == 0
    assert (out / "model.safetensors").stat().st_ino != before
    assert leftovers(tmp_path) == ["out"]


@pytest.mark.parametrize("arguments", [("model", "model"), ("model", "model/out"), ("link", "model")])
def test_force_does_not_reach_the_model_that_is_read(arguments, cli, checkpoint, tmp_path, monkeypatch):
    shutil.copytree(checkpoint, tmp_path / "model")
    (tmp_path / "link").symlink_to("model")
    monkeypatch.chdir(tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    commands = (("compress", "--ffn-size", 12), ("compress", "--keep", 0.8), ("recover", "--steps", 1))
    for command, *options in commands:
        code, _, stderr = cli(command, *arguments, *options, "--force")
        assert code == 2
        assert "lie in one another" in stderr
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before


def test_a_cache_that_cannot_be_written_costs_a_warning(cli, checkpoint, text, tmp_path, monkeypatch):
    monkeypatch.setenv("NEUROMELD_CACHE", "/dev/null/x")
    code, _, stderr = cli(
        "compress", checkpoint, tmp_path / "out", "--hidden-size", 16, "--calibration", text, *CALIBRATION
    )
    assert code == 0
    assert "warning: what was computed is not kept" in stderr


def test_nan_in_a_weight_is_named(cli, checkpoint, text, tmp_path):
    def spoil(weights):
        weights["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")

    model = damaged(checkpoint, tmp_path / "model", spoil)
    code, _, stderr = cli("compress", model, tmp_path / "out", "--hidden-size", 16, "--calibration", text, *CALIBRATION)
    assert code == 4
    assert "model.layers.1.mlp.up_proj.weight" in stderr
    assert leftovers(tmp_path) == ["model"]


def test_overflow_in_activations_is_named(cli, checkpoint, text, tmp_path):
    def spoil(weights):
        weights["model.layers.1.mlp.up_proj.weight"] *= 1e30
        weights["model.layers.1.mlp.gate_proj.weight"] *= 1e30

    model = damaged(checkpoint, tmp_path / "model", spoil)
    code, _, stderr = cli("compress", model, tmp_path / "out", "--hidden-size", 16, "--calibration", text, *CALIBRATION)
    assert code == 4
    assert "model.layers.2.input_layernorm" in stderr


def test_what_is_not_known_of_an_architecture_is_refused_by_name(cli, checkpoint, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(checkpoint, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(
        json.dumps(config | {"model_type": "cohere", "architectures": ["CohereForCausalLM"]})
    )
    code, _, stderr = cli("plan", model, "--hidden-size", 16)
    assert code == 3
    assert "stream cannot be narrowed in cohere models: this architecture was discovered" in stderr


def test_tokenizer_of_another_model_is_refused(cli, checkpoint, text, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(checkpoint, model)
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["w5"], vocabulary["extra"] = 900, 5
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    code, _, stderr = cli("compress", model, tmp_path / "out", "--hidden-size", 16, "--calibration", text, *CALIBRATION)
    assert code == 2
    assert "900" in stderr
    assert leftovers(tmp_path) == ["model"]


def test_ctrl_c_leaves_nothing(checkpoint, text, tmp_path):
    command = [sys.executable, "-m", "neuromeld", "compress", checkpoint, tmp_path / "out", "--hidden-size", "16",
               "--calibration", text, "--calibration-tokens", "8000", "--seqlen", "16"]  # fmt: skip
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        list(map(str, command)),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        # A test run in the background of a shell inherits an ignored SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    seen = ""
    while "statistics" not in seen and process.poll() is None:
        seen += process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, seen + stderr
    assert "interrupted" in stderr
    assert leftovers(tmp_path) == []
