"""`neuromeld recover` as a user meets it."""

import json

import pytest
from safetensors.torch import load_file

SMALL = ["--steps", 3, "--batch-tokens", 64, "--seqlen", 16]


def test_json_is_all_that_goes_to_stdout(cli, checkpoint, text, tmp_path):
    out = tmp_path / "out"
    code, stdout, stderr = cli("recover", checkpoint, out, "--train", text, *SMALL, "--lora", "--seed", 7, "--json")
    assert code == 0, stderr
    printed = json.loads(stdout)
    assert printed.pop("out") == str(out)
    assert printed == json.loads((out / "record.json").read_text())
    settings = printed["recovery"]["settings"]
    assert settings == {
        "train": text,
        "steps": 3,
        "batch_tokens": 64,
        "seqlen": 16,
        "learning_rate": 1e-4,
        "schedule": "linear",
        "warmup": 0,
        "clip": 1.0,
        "lora_rank": 16,
        "seed": 7,
    }
    assert len(printed["recovery"]["loss_curve"]) == 3
    assert "recovery tuning" in stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_words_for_people(cli, checkpoint, text, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("steps: 2\nlora_rank: 3\nbatch_tokens: 64\nseqlen: 16\n")
    out = tmp_path / "out"
    code, stdout, stderr = cli("recover", checkpoint, out, "--recipe", recipe, "--train", text, "--no-lora")
    assert code == 0, stderr
    assert "held-out loss" in stdout
    sizes = [sum(t.numel() for t in load_file(folder / "model.safetensors").values()) for folder in (checkpoint, out)]
    assert sizes[0] == sizes[1]
    assert f"{sizes[0]:,} parameters trained" in stdout


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--recipe", "quik"], 2, "Did you mean 'quick'"),
        (["--steps", "0"], 2, "steps=0"),
        (["--temperature", "2"], 2, "no original"),
        (["--lora-rank", "4", "--no-lora"], 2, "give one of them"),
        (["--lora", "--qlora"], 2, "--qlora and --lora"),
        (["--no-lora", "--qlora"], 2, "--qlora and --no-lora"),
        (["--learning-rate", "1e30"], 4, "Lower --learning-rate (now 1e+30)"),
        (["--from", "./nowhere"], 2, "./nowhere does not exist"),
        (["--seqlen", "2048"], 2, "2048"),
    ],
)
def test_mistakes_are_one_message_and_no_output(cli, checkpoint, text, tmp_path, options, code, message):
    out = tmp_path / "out"
    found, stdout, stderr = cli("recover", checkpoint, out, "--train", text, *SMALL, *options)
    assert found == code
    assert message in stderr
    assert stdout == ""
    assert not out.exists()


def test_recipes_are_listed(cli):
    _, stdout, _ = cli("list", "recovery-recipes", "--json")
    assert [row["name"] for row in json.loads(stdout)["recovery-recipes"]] == [
        "distil",
        "image-model",
        "language-model",
        "layerwise",
        "quick",
        "translation",
    ]


def test_a_teacher_on_the_disk_stands_in_for_the_text_and_windows_of_a_recipe(cli, checkpoint, text, tmp_path):
    code, _, stderr = cli("teach", checkpoint, tmp_path / "teacher", "--text", text, "--tokens", 1024, "--seqlen", 16)
    assert code == 0, stderr
    asked = ["recover", checkpoint, tmp_path / "out", "--teacher", tmp_path / "teacher", "--steps", 2]
    code, stdout, stderr = cli(*asked, "--batch-tokens", 64, "--json")
    assert code == 0, stderr
    assert json.loads(stdout)["recovery"]["parameters_trained"] > 0
    code, _, stderr = cli(*asked, "--seqlen", 32, "--force")
    assert (code, "the teacher has its own" in stderr) == (2, True)
