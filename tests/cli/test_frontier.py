"""`neuromeld frontier` as a user meets it."""

import json
import signal

import pytest

import processes
from cli.commands import CALIBRATION, leftovers
from neuromeld.jobs.frontier import knee_of


@pytest.fixture
def command(checkpoint, text, tmp_path):
    options = ["--keep", "0.9,0.8,0.01", "--calibration", text, *CALIBRATION]
    return lambda *more, out="frontier.html": ["frontier", checkpoint, *options, "--out", tmp_path / out, *more]


def test_a_frontier_goes_on_where_it_was_killed_and_its_command_makes_its_points(cli, command, checkpoint, tmp_path):
    killed = ("os.rename", r"keep 0\.8%3A measuring finalists .*\.safetensors$", signal.SIGKILL)
    assert processes.command(*command(), at=killed).wait()[0] == -signal.SIGKILL
    code, stdout, stderr = cli(*command("--json"))
    assert code == 0, stderr
    (found,) = json.loads(stdout)["models"]
    assert [point["keep"] for point in found["points"]] == [0.9, 0.8]
    assert all(point["kept_ratio"] <= point["keep"] for point in found["points"])
    assert found["out_of_reach"] == [0.01]
    page = (tmp_path / "frontier.html").read_text()
    assert page.count("<svg") == 2
    assert " on news-sample" in page
    assert all(point["other_losses"].keys() == {"news-sample"} for point in found["points"])
    assert leftovers(tmp_path) == ["frontier.html"]
    option = found["points"][1]["keep_option"].split(",")
    assert option == ["0.9", "0.8"]
    code, stdout, stderr = cli(
        "compress", checkpoint, tmp_path / "out", "--keep", "0.9,0.8", *found["options"].split(), "--json"
    )
    assert code == 0, stderr
    for point, record in zip(found["points"], json.loads(stdout)["results"], strict=True):
        assert record["recipe"] == point["recipe"]
        assert record["parameters_after"] == point["parameters"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "x.pdf"], "ending in .html, .json"),
        (["--keep", "0.8,a"], "must be a share"),
        (["--keep", "2"], "outside"),
        (["--text", "news-sample,new"], "--text news-sample,new: unknown source of data"),
    ],
)
def test_mistakes_are_one_message(cli, checkpoint, options, message):
    code, _, stderr = cli("frontier", checkpoint, *options)
    assert code == 2
    assert message in " ".join(stderr.split())


def test_a_file_that_is_there_is_not_replaced(cli, command, tmp_path):
    (tmp_path / "frontier.html").write_text("mine")
    code, _, stderr = cli(*command())
    assert code == 2
    assert "exists; name another file, or pass --force" in " ".join(stderr.split())


def test_the_knee_lies_farthest_below_the_line_between_the_ends():
    assert knee_of([(1.0, 0.0), (0.8, 0.1), (0.6, 1.0)]) == 1
    assert knee_of([(1.0, 0.0), (0.9, 0.2), (0.7, 0.3), (0.6, 2.0)]) == 2
    assert knee_of([(1.0, 0.0), (0.8, 0.6), (0.6, 1.0)]) is None
    assert knee_of([(1.0, 0.0), (0.6, 1.0)]) is None


@pytest.mark.product
def test_time_and_tasks_are_shown_where_they_are_asked_for(cli, checkpoint, text, tmp_path):
    pytest.importorskip("lm_eval")
    questions = [{"question": "w5 w6", "choices": ["w7", "w8 w9"], "answer": number % 2} for number in range(6)]
    data = tmp_path / "questions.jsonl"
    data.write_text("\n".join(map(json.dumps, questions)))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "own.yaml").write_text(
        f"task: own\ndataset_path: json\ndataset_kwargs:\n  data_files: {data}\ntest_split: train\n"
        'output_type: multiple_choice\ndoc_to_text: "{{question}}"\ndoc_to_choice: "{{choices}}"\n'
        "doc_to_target: answer\nmetric_list:\n  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n"
    )
    options = ["--keep", "0.9", "--calibration", text, *CALIBRATION, "--effort", "quick", "--speed", "--tasks", "own"]
    options += ["--include-path", tmp_path / "tasks", "--limit", "4", "--out", tmp_path / "frontier.json", "--json"]
    code, stdout, stderr = cli("frontier", checkpoint, *options)
    assert code == 0, stderr
    (found,) = json.loads(stdout)["models"]
    (point,) = found["points"]
    assert point["figures"].keys() == found["original"].keys() == {"time of a request", "own"}
    assert point["figures"]["time of a request"] > 0
    assert found["original"]["own"] == 0.5  # two alike questions of four have each answer
    code, _, stderr = cli("frontier", checkpoint, "--limit", "4")
    assert code == 2
    assert "--include-path and --limit are for --tasks" in " ".join(stderr.split())
