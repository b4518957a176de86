"""What is typed and does not fit: the usage and one message, exit code 2."""

import os
import subprocess
import sys

import pytest

USAGE_ERRORS = [
    (["compress", "only-a-model"], "Missing argument"),
    (["compress", "a", "b", "--ratio", "0.5"], "No such option: --ratio"),
    (["compress", "a", "b", "--ffn-ratio", "abc"], "--ffn-ratio"),
    (["compress", "a", "b", "--ffn-ratio"], "requires an argument"),
    (["evaluate"], "Missing argument"),
    (["list", "[red]"], "[red]"),
    (["list", "texts", "more"], "unexpected extra argument"),
    (["frob\x1b[31mnicate"], r"No such command 'frob\x1b[31mnicate'"),
    (["--nope"], "No such option"),
]


@pytest.mark.parametrize(("arguments", "message"), USAGE_ERRORS, ids=[" ".join(a).encode() for a, _ in USAGE_ERRORS])
def test_a_usage_error_is_one_message(cli, arguments, message):
    code, stdout, stderr = cli(*arguments)
    assert (code, stdout) == (2, "")
    assert stderr.count("error: ") == 1
    assert message in stderr
    assert "Traceback" not in stderr
    assert stderr.startswith(("Usage: neuromeld", "error: "))


def test_without_arguments_there_is_the_help(cli):
    code, stdout, stderr = cli()
    assert code == 2
    assert all(command in stdout + stderr for command in ("compress", "plan", "evaluate", "recover", "--help"))
    assert "error" not in stderr


NUMBERS = [
    (["--params", "inf"], "--params inf must be a number"),
    (["--params", "1e400"], "--params 1e400 must be a number"),
    (["--params", "-5"], "at least 1"),
    (["--keep", "nan"], "outside (0, 1]"),
    (["--device", "meta"], "--device meta cannot be used"),
    (["--throughput", "abacus"], "unknown throughput"),
    (["--device", "xla"], "--device xla cannot be used"),
    (["--max-memory", "nan"], "must be a size"),
    (["--max-memory", "-5GB"], "must be a size"),
    (["--max-memory", "1e400GB"], "must be a size"),
    (["--drop-layers-at", "0-99999999999"], "must be numbers"),
    (["--share-ffns-at", "²-3"], "must be FIRST-LAST"),
    (["--remove-ffns", "100000"], "the model has 3 FFNs"),
    (["--hidden-ratio", "0.5", "--hidden-basis", "run:" + "9" * 5000], "basis="),
    (["--ffn-ratio", "nan"], "finite number"),
    (["--ffn-ratio", "0.5", "--for", "vlm"], "Did you mean 'vllm'?"),
    (["--ffn-ratio", "0.5", "--for", "vllm", "--stock"], "leave --stock or --native out"),
    (["--ffn-ratio", "0.5", "--seed", "-1"], "not -1"),
    (["--ffn-ratio", "0.5", "--effort", "best"], "--effort best is for the planner"),
    (["--ffn-ratio", "0.5", "--rank-after", "32K"], "--rank-after 32K is for the planner"),
    (["--keep", "0.8", "--effort", "bset"], "Did you mean 'best'?"),
    (["--ffn-ratio", "0.5", "--calibration-tokens", "9" * 5000], "--calibration-tokens"),
]


@pytest.mark.parametrize(("options", "message"), NUMBERS, ids=[" ".join(o)[:40] for o, _ in NUMBERS])
def test_numbers_out_of_range_are_refused_before_anything_is_done(cli, checkpoint, options, message):
    code, stdout, stderr = cli("plan", checkpoint, *options)
    assert (code, stdout) == (2, "")
    assert message in stderr
    assert len(stderr) < 6000


@pytest.mark.parametrize("option", ["tokens", "seqlen", "num-images", "num-examples", "limit", "batch-size"])
@pytest.mark.parametrize("value", ["0", "-1", "9" * 30])
def test_evaluation_sizes_out_of_range_are_refused(cli, option, value):
    code, stdout, stderr = cli("evaluate", "nowhere", f"--{option}", value)
    assert (code, stdout) == (2, "")
    assert f"- {option.replace('-', '_')}: " in stderr


def test_where_the_output_cannot_be_written_is_said_before_the_work(cli, checkpoint, tmp_path):
    for out in ("no-folder/x.svg", "x.txt"):
        code, _, stderr = cli("similarity", checkpoint, "--out", tmp_path / out)
        assert code == 2
        assert "must be a file in a folder" in stderr
    code, _, stderr = cli("similarity", checkpoint, "--out", tmp_path / ("n" * 300 + ".svg"))
    assert (code, stderr.count("error: ")) == (1, 1)


def test_a_folder_of_tasks_that_there_is_not_is_one_message(cli, checkpoint, text, tmp_path):
    options = ["--tasks", "words", "--include-path", tmp_path / "none"]
    code, stdout, stderr = cli("evaluate", checkpoint, "--text", text, "--tokens", 64, "--seqlen", 32, *options)
    assert (code, stdout) == (2, "")
    assert stderr.count("error: ") == 1
    assert "none is not a folder" in stderr


GRID = "models: [m]\nrows: {a: {recipe: {ffn: {size: 2}}}}\n"
GRIDS = [
    (GRID, ["--set", "keep"], "must be KEY=VALUE"),
    (GRID, ["--set", "keep=[0.9"], "--set keep: [0.9 is not valid YAML"),
    (GRID, ["--set", "keep=!!python/name:os.system"], "is not valid YAML"),
    (GRID, ["--set", "[red]=1"], "unknown grid key '[red]'"),
    (GRID, ["--rows", "b[red]"], "unknown row 'b[red]'"),
    (GRID.replace("{size: 2}", "3"), [], "Input should be a valid dictionary"),
    (GRID.replace("a:", '"[red]\\e[31m":'), ["--rows", "b"], r"Available: [red]\x1b[31m"),
    ("- 1", [], "the grid cannot be used"),
    ("", [], "the grid cannot be used"),
    ("a: &a [*a]", [], "an alias stands for what it is in"),
]  # fmt: skip


@pytest.mark.parametrize(("grid", "options", "message"), GRIDS)
def test_a_grid_of_any_kind_is_one_message(cli, tmp_path, grid, options, message):
    path = tmp_path / "[red]grid.yaml"
    path.write_text(grid)
    code, stdout, stderr = cli("benchmark", path, *options)
    assert (code, stdout) == (2, "")
    assert message in stderr
    assert "\x1b" not in stderr
    assert stderr.count("error: ") == 1


def test_results_that_are_no_text_are_one_message(cli, tmp_path):
    (tmp_path / "grid.yaml").write_text(GRID)
    (tmp_path / "results.jsonl").write_bytes(b"\xff")
    for out in (tmp_path / "results.jsonl", tmp_path):
        code, _, stderr = cli("benchmark", tmp_path / "grid.yaml", "--out", out)
        assert code == 2
        assert "cannot be read as results" in stderr


WITHOUT_MODELS = """
import sys
from neuromeld.cli import main
for arguments in (["--help"], ["list", "architectures"], ["list", "texts"], ["list", "images"]):
    sys.argv = ["neuromeld", *arguments]
    try:
        main()
    except SystemExit as end:
        assert not end.code
    heavy = {"torch", "transformers.modeling_utils"} - ({"torch"} if arguments[0] == "list" else set())
    assert not heavy & set(sys.modules), (arguments, heavy & set(sys.modules))
"""


def test_what_there_is_is_listed_without_model_classes():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", WITHOUT_MODELS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
