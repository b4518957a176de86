"""What the journal gives back is what was done, bit for bit, on every kind of module."""

import contextlib

import pytest
import torch

from contract.families import build
from neuromeld import compress_model, make_plan, parse_recipe
from neuromeld.errors import UserInputError
from neuromeld.runtime.journal import Journal, open_journal
from neuromeld.runtime.workspace import open_workspace, work_folder
from unit.stages.models import batches

RECIPE = {"ffn": {"size": 24}, "width": {"hidden_size": 18, "refit": True, "basis": "run:2"}}
CALIBRATION = {"calibration": {"tokens": 512, "seqlen": 16}}


def sizes(model: torch.nn.Module) -> dict[str, dict[str, object]]:
    """Every size attribute of every module."""
    return {
        name: {key: value for key, value in vars(module).items() if isinstance(value, int | tuple)}
        for name, module in model.named_modules()
    }


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "opt", "phi3", "qwen2"])
def test_layers_that_are_recalled_are_those_that_were_narrowed(family, tmp_path):
    with open_journal(tmp_path / "out") as journal:
        done, again = (
            compress_model(model, make_plan(model, parse_recipe(RECIPE | CALIBRATION)), batches(), journal=journal)
            for model in (build(family), build(family))
        )
        layers = 2 * len(done.neurons)
        assert journal.num_recalled == layers
    assert again.neurons == done.neurons
    assert again.narrowed is not None
    assert done.narrowed is not None
    assert again.narrowed.refits == done.narrowed.refits
    assert sizes(again.model) == sizes(done.model)
    expected = done.model.state_dict()
    assert list(again.model.state_dict()) == list(expected)
    for name, tensor in again.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_a_step_is_done_once_and_then_recalled(tmp_path):
    calls = []

    def compute(value: float) -> float:
        calls.append(value)
        return value

    with open_journal(tmp_path / "out") as journal:
        values = [0.1, float("inf"), float("-inf")]
        for _ in range(2):
            assert [journal.once(f"loss/of {value}", compute, value) for value in values] == values
        assert calls == values
        tensors = {"a": torch.randn(3, 2).bfloat16().T, "b": torch.arange(4)}
        journal.keep("tensors", {"kept": [1]}, tensors)
        entry = journal.recall("tensors")
        assert entry is not None
        assert entry.facts == {"kept": [1]}
        for name, tensor in tensors.items():
            assert torch.equal(entry.tensors[name], tensor)
        assert journal.recall("another") is None
    assert list(tmp_path.iterdir()) == []


def test_parts_of_a_job_do_not_see_each_others_steps(tmp_path):
    with open_journal(tmp_path / "out") as journal:
        one, two = journal.within("one"), journal.within("two")
        one.keep("step", 1)
        assert two.recall("step") is None
        assert journal.recall("step") is None
        assert journal.within("one").recall("step") is not None


def test_statistics_of_a_stream_belong_to_one_part(tmp_path):
    """Two parts narrow the same stream behind other FFNs: neither may take the other's statistics."""
    recipes = [{"ffn": {"size": size}, "width": {"hidden_size": 18}} for size in (16, 32)]
    with open_journal(tmp_path / "out") as journal:
        for recipe in recipes:
            plan = make_plan(build("llama"), parse_recipe(recipe | CALIBRATION))
            kept = compress_model(build("llama"), plan, batches(), journal=journal.within(str(recipe)))
            alone = compress_model(build("llama"), plan, batches())
            for name, tensor in kept.model.state_dict().items():
                assert torch.equal(tensor, alone.model.state_dict()[name]), name


def test_without_a_workspace_nothing_is_kept():
    journal = Journal()
    journal.keep("step", 1)
    assert journal.recall("step") is None


def killed(out, identities, step="step"):
    """What is left of a job of these parts that was stopped behind its last step."""
    with contextlib.suppress(KeyboardInterrupt), open_journal(out) as journal:
        for identity in identities:
            journal.begin(identity, force=False)
        if step:
            journal.keep(step, 1)
        raise KeyboardInterrupt


def test_every_part_of_a_job_must_be_the_same(tmp_path):
    out = tmp_path / "out"
    killed(out, [{"a": (1, 2)}, {"b": {"c": 1}}])
    with pytest.raises(UserInputError, match=r"b\.c was 1 and is 2"):
        killed(out, [{"a": [1, 2]}, {"b": {"c": 2}}])
    with pytest.raises(UserInputError, match=r"a was \[1, 2\] and is None; b\.c was None and is 1"):
        killed(out, [{"b": {"c": 1}}])
    with open_journal(out) as journal:
        journal.begin({"a": [1, 2], "unknown to an older version": None}, force=False)
        assert journal.recall("step") is not None
        journal.begin({"b": {"c": 2}}, force=True)
        assert journal.recall("step") is None


def test_a_job_without_a_finished_step_holds_nobody_up(tmp_path):
    out = tmp_path / "out"
    work_folder(out).mkdir()
    (work_folder(out) / "identity.json").write_text('[{"a": 1}]')
    (work_folder(out) / "step.safetensors.unfinished").write_text("half")
    killed(out, [{"a": 2}], step=None)
    assert list(tmp_path.iterdir()) == []


def test_one_job_at_a_time(tmp_path):
    folder = tmp_path / "work"
    with (
        open_workspace(folder, lambda: True),
        pytest.raises(UserInputError, match="another job"),
        open_workspace(folder, lambda: True),
    ):
        pass
    assert not folder.exists()
