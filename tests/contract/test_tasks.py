"""The harness's accuracy against log-likelihoods summed by hand, on a task with local data."""

import json
import random
import sys
from pathlib import Path

import pytest
import torch

from contract.families import batches_for, build, exact_norms, tokens
from contract.test_contract import recipe
from neuromeld import compress_model, make_plan
from neuromeld.errors import UserInputError
from neuromeld.evaluation import evaluate_tasks
from neuromeld.planning.plan import architecture_of

pytest.importorskip("lm_eval")

YAML = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {data}
test_split: train
output_type: {output_type}
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list:
  - metric: {metric}
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""


@pytest.fixture(scope="module")
def questions() -> list[dict[str, object]]:
    draw = random.Random(0)
    words = [f"w{i}" for i in range(2, 90)]
    return [
        {
            "question": " ".join(draw.choices(words, k=5)),
            "choices": [" ".join(draw.choices(words, k=draw.choice([1, 2, 3]))) for _ in range(3)],
            "answer": draw.randrange(3),
        }
        for _ in range(24)
    ]


@pytest.fixture(autouse=True)
def _cache_of_datasets(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)


@pytest.fixture(scope="module")
def task_folder(questions, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "questions.jsonl"
    data.write_text("\n".join(map(json.dumps, questions)))
    tasks = {"words": ("multiple_choice", "acc"), "wordy": ("loglikelihood", "perplexity")}
    for name, (output_type, metric) in tasks.items():
        text = YAML.format(name=name, data=data, output_type=output_type, metric=metric)
        (folder / f"{name}.yaml").write_text(text)
    lost = YAML.format(name="lost", data=folder / "nothing.jsonl", output_type="multiple_choice", metric="acc")
    (folder / "lost.yaml").write_text(lost)
    return folder


@torch.no_grad()
def answers_right(model, tokenizer, questions) -> tuple[float, ...]:
    """1 where the choice of the largest log-likelihood, summed over its tokens after the question, is the answer."""
    right = []
    for asked in questions:
        likelihoods = []
        for choice in asked["choices"]:
            context, whole = (tokenizer(t)["input_ids"] for t in (asked["question"], f"{asked['question']} {choice}"))
            logs = model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
            likelihoods.append(sum(float(logs[i - 1, whole[i]]) for i in range(len(context), len(whole))))
        right.append(float(max(range(3), key=likelihoods.__getitem__) == asked["answer"]))
    return tuple(right)


def test_accuracy_is_the_one_computed_by_hand(task_folder, questions, tokenizer):
    model = build("llama", dtype=torch.float32)
    expected = answers_right(model, tokenizer, questions)
    score = evaluate_tasks(model, tokenizer, ["words"], include_path=task_folder)["words"]
    assert score.correct == expected
    assert 0 < sum(expected) < len(expected)
    assert score.accuracy == pytest.approx(sum(expected) / 24)
    assert score.protocol["metric"] == "acc"
    assert score.protocol["questions"] == 24
    limited = evaluate_tasks(model, tokenizer, ["words"], include_path=task_folder, limit=5)["words"]
    assert limited.correct == expected[:5]


def test_native_model_answers_as_the_simulated_full_width_one(task_folder, tokenizer):
    model, simulated = exact_norms(build("llama-tied")), exact_norms(build("llama-tied"))
    plan = make_plan(model, recipe(output="native", selector="mean_abs_activation"))
    compressed = compress_model(model, plan, batches_for(model))
    assert plan.format == "native"
    basis = compressed.results["width"].narrowed.bases[0]
    projection = basis.write @ basis.read
    for norm in architecture_of(simulated).residual_reads:
        simulated.get_submodule(norm.path).register_forward_pre_hook(lambda _, args: (args[0] @ projection,))
    narrow, full, dense = (
        evaluate_tasks(m, tokenizer, ["words"], include_path=task_folder)["words"].correct
        for m in (compressed.model, simulated, build("llama-tied"))
    )
    assert narrow == full
    assert narrow != dense


def test_model_is_left_in_its_mode(task_folder, tokenizer):
    model = build("llama", dtype=torch.float32).train()
    evaluate_tasks(model, tokenizer, ["words"], include_path=task_folder, limit=1)
    assert model.training
    assert torch.isfinite(model(input_ids=tokens(1)).logits).all()


BAD = {
    "word": "unknown task 'word'.*Did you mean.*words",
    "lost": "cannot be had here .*nothing.jsonl",
    "wordy": "measures perplexity, and none of acc, exact_match",
}


@pytest.mark.parametrize("name", BAD)
def test_task_that_cannot_be_had_is_refused(name, task_folder, tokenizer):
    with pytest.raises(UserInputError, match=BAD[name]):
        evaluate_tasks(build("llama"), tokenizer, [name], include_path=task_folder)


def test_harness_that_is_not_installed_is_named(tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.evaluator", None)
    with pytest.raises(UserInputError, match=r"neuromeld\[tasks\]"):
        evaluate_tasks(build("llama"), tokenizer, ["arc_easy"])
