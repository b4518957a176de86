"""A run that was killed goes on as if nothing had happened, or not at all."""

import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from contract.families import build
from neuromeld.errors import NumericsError, UserInputError
from neuromeld.recovery import loop, recover
from neuromeld.recovery.resume import TRAINING
from processes import Job


def killed(source, settings, out) -> None:
    """Run in a process of its own that is killed when it has kept its state the second time."""
    code, _, stderr = Job(lambda: keep_twice(source, settings, out)).wait()
    assert code == -signal.SIGKILL, stderr


def keep_twice(source, settings, out) -> None:
    """Recover with the state kept after every update, and die after the second."""
    loop.CHECKPOINT_SECONDS = 0.0
    keep, kept = loop.keep_state, []

    def keep_or_die(*state) -> None:
        keep(*state)
        kept.append(1)
        if len(kept) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    loop.keep_state = keep_or_die
    recover(str(source), settings, out)


@pytest.fixture
def gpt2(checkpoint, tmp_path_factory):
    """With dropout, so that the order of random numbers matters."""
    folder = tmp_path_factory.mktemp("gpt2")
    build("gpt2", dtype=torch.float32).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((checkpoint / name).read_bytes())
    return folder


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
    assert resumed["resumed_from"] == 2
    assert undisturbed["resumed_from"] == 0
    for what in ("loss_curve", "looks", "best_step"):
        assert resumed[what] == undisturbed[what]
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "undisturbed"))
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "undisturbed"]


def test_a_damaged_state_is_discarded_with_a_warning(stock, settings, tmp_path, capsys):
    chosen, out = settings(steps=6), tmp_path / "out"
    killed(stock, chosen, out)
    state = tmp_path / ".out.work" / f"{TRAINING}.safetensors"
    state.write_bytes(state.read_bytes()[:-1])
    assert recover(str(stock), chosen, out).record["recovery"]["resumed_from"] == 0
    assert "damaged" in capsys.readouterr().err


def test_a_run_that_ended_before_its_state_was_kept_leaves_nothing(stock, settings, tmp_path):
    with pytest.raises(NumericsError):
        recover(str(stock), settings(learning_rate=1e30), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_changed_settings_text_and_model_are_named(stock, native, settings, text, tmp_path):
    out = tmp_path / "out"
    killed(stock, settings(steps=20), out)
    with pytest.raises(
        UserInputError, match=r"learning_rate was 0\.01 and is 0\.02; lora_rank was None and is 2.*--force"
    ):
        recover(str(stock), settings(steps=20, learning_rate=0.02, lora_rank=2), out)
    with pytest.raises(UserInputError, match=r"source_sha256 was .*text_sha256 was "):
        recover(str(native), settings(steps=20, train=text), out)
    assert recover(str(stock), settings(steps=2), out, force=True).record["recovery"]["resumed_from"] == 0
