"""A run that was killed goes on as if nothing had happened, or not at all."""

import contextlib
import signal

import pytest
import torch
from safetensors.torch import load_file

from contract.families import build
from neuromeld.errors import UserInputError
from neuromeld.recovery import recover
from neuromeld.recovery.resume import holds_work, last_checkpoint, write_checksums
from neuromeld.runtime.workspace import open_workspace
from processes import Job


def killed(source, settings, out) -> None:
    """Run in a process of its own that is killed while it writes the second checkpoint."""
    second = ("open", r"checkpoint-10/trainer_state\.json$", signal.SIGKILL)
    code, _, stderr = Job(lambda: recover(str(source), settings, out), at=second).wait()
    assert code == -signal.SIGKILL, stderr


@pytest.fixture
def gpt2(checkpoint, tmp_path_factory):
    """With dropout, so that the order of random numbers matters."""
    folder = tmp_path_factory.mktemp("gpt2")
    build("gpt2", dtype=torch.float32).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((checkpoint / name).read_bytes())
    return folder


@contextlib.contextmanager
def work_in(work, identity, *, force):
    """Begin a run in its work folder; the checkpoint that it goes on from."""
    with open_workspace(work, lambda: holds_work(work)) as workspace:
        workspace.begin(identity, force=force)
        yield last_checkpoint(work)


IMAGES = {"train": "digits", "seqlen": 512, "batch_tokens": 512}


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("stock", {}),
        ("native", {"lora_rank": 2, "schedule": "cosine"}),
        ("gpt2", {"warmup": 12}),
        ("merged_vit", IMAGES),
    ],
)
def test_killed_and_resumed_run_ends_like_an_undisturbed_one(kind, more, settings, tmp_path, request):
    source = request.getfixturevalue(kind)
    chosen = settings(steps=20, learning_rate=0.001, **more)
    killed(source, chosen, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    resumed = recover(str(source), chosen, tmp_path / "out").record["recovery"]
    undisturbed = recover(str(source), chosen, tmp_path / "undisturbed").record["recovery"]
    assert resumed["resumed_from"] == "checkpoint-5"
    assert undisturbed["resumed_from"] is None
    assert resumed["loss_curve"] == undisturbed["loss_curve"]
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "undisturbed"))
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "undisturbed"]


def unfinished(work, identity, *steps: int):
    """Leave the folder of a run that was killed at the last of these steps."""
    with contextlib.suppress(KeyboardInterrupt), work_in(work, identity, force=False):
        for step in steps:
            (work / f"checkpoint-{step}").mkdir()
            (work / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
            write_checksums(work / f"checkpoint-{step}")
        raise KeyboardInterrupt


def test_latest_complete_checkpoint_is_taken_and_removed_at_the_end(tmp_path):
    work = tmp_path / "work"
    unfinished(work, {"steps": 1}, 5, 90, 100)
    (work / "checkpoint-100" / "trainer_state.json").write_text('{"half')
    (work / "checkpoint-110").mkdir()
    with work_in(work, {"steps": 1}, force=False) as found:
        assert found == work / "checkpoint-90"
        assert sorted(path.name for path in work.glob("checkpoint-*")) == ["checkpoint-5", "checkpoint-90"]
    assert not work.exists()


@pytest.mark.parametrize("damage", ["changed", "truncated", "missing"])
def test_a_damaged_checkpoint_is_discarded_with_a_warning_and_the_earlier_taken(damage, tmp_path, capsys):
    work = tmp_path / "work"
    unfinished(work, {"steps": 1}, 90, 100)
    state = work / "checkpoint-100" / "trainer_state.json"
    {"changed": lambda: state.write_text("[]"), "truncated": lambda: state.write_text(""), "missing": state.unlink}[
        damage
    ]()
    with work_in(work, {"steps": 1}, force=False) as found:
        assert found == work / "checkpoint-90"
        assert "checkpoint-100 is damaged" in capsys.readouterr().err
        (work / "checkpoint-90" / "trainer_state.json").unlink()
        assert last_checkpoint(work) is None, "the run starts again"


def test_run_that_ended_before_its_first_checkpoint_leaves_nothing(tmp_path):
    unfinished(tmp_path / "work", {"steps": 1})
    assert not (tmp_path / "work").exists()


def test_changed_settings_text_and_model_are_named(stock, native, settings, text, tmp_path):
    out = tmp_path / "out"
    killed(stock, settings(steps=20), out)
    with pytest.raises(
        UserInputError, match=r"learning_rate was 0\.01 and is 0\.02; lora_rank was None and is 2.*--force"
    ):
        recover(str(stock), settings(steps=20, learning_rate=0.02, lora_rank=2), out)
    with pytest.raises(UserInputError, match=r"source_sha256 was .*text_sha256 was "):
        recover(str(native), settings(steps=20, train=text), out)
    assert recover(str(stock), settings(steps=2), out, force=True).record["recovery"]["resumed_from"] is None
