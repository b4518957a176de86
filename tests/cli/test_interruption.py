"""A job that is killed, stopped or refused by the disk, for real and at a chosen moment, and what is left of it."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import processes
from cli.commands import CALIBRATION, damaged, leftovers

STAGES = ["--num-kv-heads", 1, "--ffn-size", 12, "--hidden-size", 16, "--hidden-refit", "--share-ffns", 2]
RECIPES = {"stages": STAGES, "budget": ["--keep", 0.8]}


def stopped(event: str, pattern: str, number: signal.Signals, *arguments: object) -> tuple[int, str]:
    code, _, stderr = processes.command(*arguments, at=(event, pattern, number)).wait()
    return code, stderr


@pytest.fixture
def command(checkpoint, text):
    """The arguments of a compression with one of the recipes."""
    return lambda out, recipe="stages": [
        "compress", checkpoint, out, *RECIPES[recipe], "--calibration", text, *CALIBRATION
    ]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of each recipe's undisturbed run, once made."""
    made: dict[str, Path] = {}

    def make(recipe: str, cli, command) -> Path:
        if recipe not in made:
            out = tmp_path_factory.mktemp("undisturbed") / "out"
            assert cli(*command(out, recipe))[0] == 0
            made[recipe] = out
        return made[recipe]

    return make


def content(folder: Path) -> dict[str, object]:
    """All that was written, bit for bit, without what a clock, a memory or an interruption decides."""
    files: dict[str, object] = {
        path.name: path.read_bytes() for path in folder.iterdir() if path.name not in ("README.md", "report.html")
    }
    record = json.loads((folder / "record.json").read_text())
    own = ("seconds", "seconds_by_phase", "passes_by_phase", "peak_rss_bytes", "steps_recalled")
    return files | {"record.json": {key: value for key, value in record.items() if key not in own}}


def work(out: Path) -> Path:
    return out.with_name(f".{out.name}.work")


def finished_steps(out: Path) -> int:
    """Those of the job itself, without statistics and without what finalists of a budget are made of."""
    stems = [path.stem for path in work(out).glob("*.safetensors")]
    return sum(not re.fullmatch("[0-9a-f]{64}", stem) and "%3A" not in stem for stem in stems)


MOMENTS = {
    "text": ("stages", "open", r"words\.jsonl$"),
    "first layer": ("stages", "os.rename", r"neurons-0\.safetensors$"),
    "last layer": ("stages", "os.rename", r"neurons-2\.safetensors$"),
    "statistics": ("stages", "os.rename", r"[0-9a-f]{64}\.safetensors$"),
    "residual stream": ("stages", "os.rename", r"residual-1\.safetensors$"),
    "search": ("stages", "os.rename", r"share_ffns-1\.safetensors$"),
    "saving": ("stages", "open", r"partial-\w+/record\.json$"),
    "the end": ("stages", "os.rename", r"/out$"),
    "candidates": ("budget", "os.rename", r"measuring candidates narrower FFNs\.safetensors$"),
    "finalists": ("budget", "os.rename", r"measuring finalists narrower FFNs\.safetensors$"),
    "a finalist's layer": ("budget", "os.rename", r"narrower FFNs%3A neurons-1\.safetensors$"),
    "chosen": ("budget", "open", r"partial-\w+/record\.json$"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_moment_the_same_command_ends_like_an_undisturbed_one(
    moment, cli, command, undisturbed, tmp_path
):
    recipe, event, pattern = MOMENTS[moment]
    out = tmp_path / "out"
    code, stderr = stopped(event, pattern, signal.SIGKILL, *command(out, recipe))
    assert code == -signal.SIGKILL, stderr
    assert not out.exists()
    done = finished_steps(out)
    assert cli(*command(out, recipe))[0] == 0
    assert leftovers(tmp_path) == ["out"]
    assert content(out) == content(undisturbed(recipe, cli, command))
    assert json.loads((out / "record.json").read_text()).get("steps_recalled", 0) == done
    assert (done > 0) == (moment not in ("text", "first layer"))


@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_gives_one_message_and_keeps_what_was_done(number, code, said, cli, command, undisturbed, tmp_path):
    out = tmp_path / "out"
    found, stderr = stopped("os.rename", r"neurons-1\.safetensors$", number, *command(out))
    assert found == code
    assert [line for line in stderr.splitlines() if said in line] == stderr.splitlines()[-1:]
    assert "Traceback" not in stderr
    assert leftovers(tmp_path) == [".out.work"]
    assert cli(*command(out))[0] == 0
    assert content(out) == content(undisturbed("stages", cli, command))


def test_a_signal_while_saving_leaves_no_folder(command, tmp_path):
    out = tmp_path / "out"
    code, _ = stopped("open", r"partial-\w+/record\.json$", signal.SIGTERM, *command(out))
    assert code == 143
    assert not out.exists()
    assert not list(work(out).glob(".out.partial*"))


def test_of_two_jobs_the_second_is_refused(cli, command, tmp_path):
    out = tmp_path / "out"
    first = processes.command(*command(out), at=("os.rename", r"neurons-1\.safetensors$", signal.SIGSTOP))
    _, status = os.waitpid(first.process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    code, _, stderr = cli(*command(out))
    assert code == 2
    assert "another job" in stderr
    os.kill(first.process.pid, signal.SIGCONT)
    code, _, stderr = first.wait()
    assert code == 0, stderr
    assert leftovers(tmp_path) == ["out"]


@pytest.fixture
def unfinished(command, tmp_path):
    """An output whose job was killed after two layers."""
    out = tmp_path / "out"
    stopped("os.rename", r"neurons-2\.safetensors$", signal.SIGKILL, *command(out))
    assert finished_steps(out) == 2
    return out


def test_another_job_is_refused_and_the_difference_named(cli, command, checkpoint, unfinished, tmp_path):
    other = tmp_path / "other"

    def change(weights):
        weights["model.norm.weight"] += 1

    damaged(checkpoint, other, change)
    asked = command(unfinished)
    ffn = asked.index("--ffn-size") + 1
    cases = {
        "recipe.ffn.size was 12 and is 16": [*asked[:ffn], 16, *asked[ffn + 1 :]],
        "dtype was None and is 'torch.bfloat16'": [*asked, "--dtype", "bfloat16"],
        "recipe.calibration.seed was 0 and is 1": [*asked, "--seed", 1],
        "model_sha256 was": [asked[0], other, *asked[2:]],
        "budget.keep was None and is 0.8": command(unfinished, "budget"),
    }
    for message, arguments in cases.items():
        code, _, stderr = cli(*arguments)
        assert code == 2
        assert message in stderr
        assert "--force" in stderr
    assert "calibration_sha256 was" in cli(*cases["recipe.calibration.seed was 0 and is 1"])[2]
    assert finished_steps(unfinished) == 2
    assert cli(*asked, "--dtype", "bfloat16", "--force")[0] == 0
    assert "steps_recalled" not in json.loads((unfinished / "record.json").read_text())
    assert sorted(leftovers(tmp_path)) == ["other", "out"]


def test_a_step_that_was_damaged_is_done_again(cli, command, undisturbed, unfinished):
    step = work(unfinished) / "neurons-1.safetensors"
    step.write_bytes(step.read_bytes()[:-1])
    assert cli(*command(unfinished))[0] == 0
    assert json.loads((unfinished / "record.json").read_text())["steps_recalled"] == 1
    assert content(unfinished) == content(undisturbed("stages", cli, command))


@pytest.fixture
def mounted(tmp_path):
    """Mounts a small file system of its own, with options; undone at the end."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(options: str) -> Path:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("mounting needs root")
        return disk

    yield mount
    subprocess.run(["umount", disk], check=False, capture_output=True)


def test_a_disk_that_fills_up_costs_no_finished_step(cli, command, undisturbed, mounted):
    disk = mounted("size=512k")
    (disk / "filler").write_bytes(bytes((512 - 40) << 10))
    out = disk / "out"
    code, _, stderr = cli(*command(out))
    assert code == 5
    assert "is full" in stderr
    assert not out.exists()
    done = finished_steps(out)
    assert done > 0
    (disk / "filler").unlink()
    assert cli(*command(out))[0] == 0
    assert json.loads((out / "record.json").read_text())["steps_recalled"] == done
    assert content(out) == content(undisturbed("stages", cli, command))
    assert leftovers(disk) == ["out"]


def test_a_read_only_output_is_refused_at_once(cli, command, mounted):
    disk = mounted("size=512k,ro")
    code, _, stderr = cli(*command(disk / "out"))
    assert code == 2
    assert "cannot be created" in stderr


def test_a_truncated_shard_is_named(cli, command, checkpoint, tmp_path):
    model = damaged(checkpoint, tmp_path / "model", dict.copy)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    arguments = command(tmp_path / "out")
    code, _, stderr = cli(arguments[0], model, *arguments[2:])
    assert code == 5
    assert "model.safetensors is truncated or damaged" in stderr
    assert leftovers(tmp_path) == ["model"]


def test_one_batch_with_nan_stops_the_job(cli, command, checkpoint, tmp_path):
    model = damaged(checkpoint, tmp_path / "model", dict.copy)
    tensors = load_file(model / "model.safetensors")
    # Coordinate 0 of the stream is that of the word w63 alone, and overflows in layer 1.
    tensors["model.embed_tokens.weight"][:, 0] = 0
    tensors["model.embed_tokens.weight"][63] = 0
    tensors["model.embed_tokens.weight"][63, 0] = 1
    for name, tensor in tensors.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            tensor[0] = 0
        if name.endswith(("layers.1.mlp.gate_proj.weight", "layers.1.mlp.up_proj.weight")):
            tensor[:, 0] = 1e30
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    words = [" ".join(f"w{(i * j) % 63}" for i in range(300)) for j in range(60)]
    lines = tmp_path / "words.jsonl"
    arguments = command(tmp_path / "out")
    for bad in (0, 1):
        lines.write_text("\n".join(json.dumps({"text": line + " w63" * bad}) for line in words))
        arguments[arguments.index("--calibration") + 1] = f"file:{lines}"
        code, _, stderr = cli(arguments[0], model, *arguments[2:], "--force")
        assert code == (4 if bad else 0), stderr
    assert "NaN or infinity" in stderr
