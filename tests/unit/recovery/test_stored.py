"""A teacher on the disk against the live one."""

import json
import signal
from functools import partial
from importlib import import_module

import pytest
import torch
from safetensors.torch import load_file, save_file

from neuromeld.checkpoint import load_model
from neuromeld.checkpoint.source import locate
from neuromeld.errors import CheckpointError, UserInputError
from neuromeld.model.predictions import kl
from neuromeld.recovery import Teaching, parse_recovery, recover, teach
from neuromeld.recovery.loss import loss_of
from neuromeld.recovery.stored import StoredTeacher, divergence_from_told, told_of
from processes import Job

teach_module = import_module("neuromeld.recovery.teaching")

V = 13


def logits(seed, rows=7):
    return 3 * torch.randn(rows, V, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("top", [V, V + 5])
def test_with_all_tokens_told_it_is_the_divergence_of_the_live_teacher(top):
    teacher, found = logits(0), logits(1)
    torch.testing.assert_close(divergence_from_told(found, told_of(teacher, top)), kl(found, teacher))


@pytest.mark.parametrize("top", [1, 4, V - 1])
def test_with_fewer_it_is_below_and_its_gradient_is_right(top):
    teacher, found = logits(0), logits(1).requires_grad_()
    told = told_of(teacher, top)
    value = divergence_from_told(found, told)
    assert (value <= kl(found, teacher) + 1e-12).all()
    assert (divergence_from_told(found, told_of(teacher, top + 1)) >= value - 1e-12).all(), "more is nearer"
    torch.testing.assert_close(divergence_from_told(teacher, told), torch.zeros(7, dtype=torch.float64))
    assert torch.autograd.gradcheck(partial(divergence_from_told, told=told), found)
    q = found.detach().softmax(-1)
    ids = told[:, top + 1 :].long()
    p = teacher.softmax(-1)
    others = torch.ones_like(q, dtype=torch.bool).scatter(1, ids, value=False)
    share = (p * others).sum(-1, keepdim=True) / (q * others).sum(-1, keepdim=True)
    expected = q - torch.where(others, q * share, p)  # of sum p ln(p / q), the others as one
    (gradient,) = torch.autograd.grad(value.sum(), found)
    torch.testing.assert_close(gradient, expected)


def test_a_sure_teacher_leaves_nothing_to_the_rest():
    sure = torch.full((2, V), -1e4, dtype=torch.float64)
    sure[:, 3] = 1e4
    found = logits(1, 2).requires_grad_()
    value = divergence_from_told(found, told_of(sure, 2))
    torch.testing.assert_close(value, -found.log_softmax(-1)[:, 3])
    value.sum().backward()
    assert found.grad.isfinite().all()


@pytest.fixture
def taught(checkpoint, pattern, tmp_path):
    """A teacher of all 64 tokens, in windows of 16."""
    settings = Teaching(text=pattern, seqlen=16, top=64)
    return teach(str(checkpoint), settings, tmp_path / "teacher")


def test_a_stored_teacher_trains_as_the_live_one(taught, checkpoint, stock, settings, tmp_path):
    """The original is not there any more; probabilities on the disk are in half precision."""
    tokenizer = locate(str(checkpoint)).tokenizer()
    pool = StoredTeacher.open(taught.out, tokenizer).training()
    batch = pool.batch_of(range(3))
    student, original = (load_model(path, dtype=None, device="cpu") for path in (stock, checkpoint))
    chosen = settings(original=str(checkpoint), distill_weight=0.7)
    live = loss_of(student, original, {"input_ids": batch["input_ids"]}, settings=chosen)
    assert loss_of(student, None, batch, settings=chosen).item() == pytest.approx(live.item(), rel=1e-2)

    told = {"steps": 20, "batch_tokens": 128, "learning_rate": 0.01, "schedule": "constant", "bf16": False}
    stored = parse_recovery(told | {"teacher": str(taught.out), "distill_weight": 1.0})
    found = recover(str(stock), stored, tmp_path / "out").record["recovery"]
    followed = settings(steps=20, original=str(checkpoint), distill_weight=1.0)
    expected = recover(str(stock), followed, tmp_path / "live").record["recovery"]
    losses = [[point["loss"] for point in one["loss_curve"]] for one in (found, expected)]
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-2)
    assert losses[0] == pytest.approx(losses[1], abs=1e-3), "Adam makes as much of small gradients as of large ones"
    assert found["held_out"]["loss_original"] == pytest.approx(expected["held_out"]["loss_original"], rel=1e-6)
    assert found["held_out"]["loss_after"] == pytest.approx(expected["held_out"]["loss_after"], rel=1e-2)


def test_its_record_says_what_it_was_made_of(taught, checkpoint, pattern):
    facts = json.loads((taught.out / "record.json").read_text())["teacher"]
    assert facts["text"] == pattern
    assert facts["model_sha256"] == locate(str(checkpoint)).fingerprint()
    assert facts["top"] == 64
    assert set(facts["sha256"]) == {path.name for path in taught.out.glob("*.safetensors")}


def test_damage_and_other_models_are_refused(taught, checkpoint, stock, settings, tmp_path):
    with pytest.raises(UserInputError, match="no folder that .*`neuromeld teach` wrote"):
        StoredTeacher.open(stock, locate(str(checkpoint)).tokenizer())
    shard = taught.out / "teacher-0.safetensors"
    save_file({name: value + 1 for name, value in load_file(shard).items()}, shard)
    with pytest.raises(CheckpointError, match="damaged"):
        StoredTeacher.open(taught.out, locate(str(checkpoint)).tokenizer())
    other = tmp_path / "other"
    other.mkdir()
    for path in checkpoint.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    tokens = json.loads((checkpoint / "tokenizer.json").read_text())
    tokens["model"]["vocab"] |= {"w5": 6, "w6": 5}
    (other / "tokenizer.json").write_text(json.dumps(tokens))
    with pytest.raises(UserInputError, match="has others"):
        StoredTeacher.open(taught.out, locate(str(other)).tokenizer())
    with pytest.raises(UserInputError, match=r"original and teacher.*train and teacher"):
        settings(teacher=str(taught.out), original=str(checkpoint))


def test_a_killed_one_goes_on_behind_its_last_file(checkpoint, pattern, tmp_path, monkeypatch):
    monkeypatch.setattr(teach_module, "SHARD_TOKENS", 16 * 16)
    chosen = Teaching(text=pattern, seqlen=16, top=5)
    undisturbed = teach(str(checkpoint), chosen, tmp_path / "undisturbed").record["teacher"]["sha256"]
    code, _, stderr = Job(
        lambda: teach(str(checkpoint), chosen, tmp_path / "out"),
        at=("os.rename", r"teacher-3\.safetensors$", signal.SIGKILL),
    ).wait()
    assert code == -signal.SIGKILL, stderr
    assert sorted(path.name for path in (tmp_path / ".out.work").glob("teacher-*.safetensors")) == [
        f"teacher-{number}.safetensors" for number in range(3)
    ]
    predicted = []
    told = teach_module._told
    monkeypatch.setattr(teach_module, "_told", lambda *of: predicted.append(1) or told(*of))
    assert teach(str(checkpoint), chosen, tmp_path / "out").record["teacher"]["sha256"] == undisturbed
    assert len(predicted) == len(undisturbed) - 1 - 3
    assert not (tmp_path / ".out.work").exists()
