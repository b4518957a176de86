"""What the journal gives back is what was done, bit for bit, on every kind of module."""

import contextlib
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies

from contract.families import build
from neuromeld import compress_model, make_plan, parse_recipe
from neuromeld.errors import NumericsError, OccupiedError, PausedError, UserInputError
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
        layers = 2 * len(done.results["ffn"].layers)
        assert journal.num_recalled == layers
    assert again.results["ffn"] == done.results["ffn"]
    assert again.results["width"].narrowed.refits == done.results["width"].narrowed.refits
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
    (work_folder(out) / "neuromeld-work").touch()
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


@settings(max_examples=60, deadline=None)
@given(data=strategies.data())
def test_no_bit_of_a_step_changes_unseen(data):
    """One bit of the file, anywhere: the step is as it was, or it was not done."""
    with tempfile.TemporaryDirectory() as folder, open_journal(Path(folder) / "out") as journal:
        tensor = torch.arange(12, dtype=torch.bfloat16).view(3, 4)
        journal.keep("step", {"loss": 0.5}, {"a": tensor, "b": torch.tensor(1)})
        (path,) = work_folder(Path(folder) / "out").glob("*.safetensors")
        content = bytearray(path.read_bytes())
        content[data.draw(strategies.integers(0, len(content) - 1))] ^= 1 << data.draw(strategies.integers(0, 7))
        path.write_bytes(content)
        entry = journal.recall("step")
        if entry is not None:  # the header may be written in more than one way
            assert entry.facts == {"loss": 0.5}
            assert torch.equal(entry.tensors["a"], tensor)


@pytest.mark.parametrize("content", ["", "[", "{}", "[1]", "[" * 100_000])
def test_a_damaged_identity_makes_all_be_done_again(content, tmp_path, capsys):
    out = tmp_path / "out"
    killed(out, [{"a": 1}])
    (work_folder(out) / "identity.json").write_text(content)
    with open_journal(out) as journal:
        journal.begin({"a": 1}, force=False)
        assert journal.recall("step") is None
    assert "identity.json is damaged" in capsys.readouterr().err


STRANGE = {
    "a file of a user": lambda work: (work.mkdir(), (work / "mine.txt").touch()),
    "a file beside the job's own": lambda work: (killed(work.with_name("out"), [{}]), (work / "mine.txt").touch()),
    "a link in the job's folder": lambda work: (killed(work.with_name("out"), [{}]), (work / "lock").unlink(),
                                                (work / "lock").symlink_to(work.with_name("home"))),
    "steps of another version": lambda work: (work.mkdir(), (work / "step.safetensors").touch()),
    "a link to a folder": lambda work: work.symlink_to(work.with_name("home")),
    "a dangling link": lambda work: work.symlink_to(work.with_name("nowhere")),
    "a file in its place": lambda work: work.touch(),
}  # fmt: skip


@pytest.mark.parametrize("what", STRANGE)
def test_a_work_folder_of_somebody_else_is_refused_and_left_as_it_is(what, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "precious.safetensors").touch()
    STRANGE[what](work_folder(tmp_path / "out"))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserInputError, match=r"\.out\.work"), open_journal(tmp_path / "out"):
        pass
    assert sorted(tmp_path.rglob("*")) == before


def test_what_a_killed_job_left_half_written_goes_and_a_replaced_output_returns(tmp_path):
    out = tmp_path / "out"
    killed(out, [{"a": 1}])
    work = work_folder(out)
    for name in (".out.partial-0123abcd", ".out.replaced-0123abcd"):
        (work / name).mkdir()
        (work / name / "config.json").write_text(name)
    (work / "step.safetensors.unfinished").touch()
    (work / "tmpabcdefgh").touch()
    with open_journal(out) as journal:
        assert sorted(path.name for path in work.iterdir() if path.name != "lock") == [
            "identity.json", "neuromeld-work", "step.safetensors"
        ]  # fmt: skip
        assert journal.recall("step") is not None
    assert (out / "config.json").read_text() == ".out.replaced-0123abcd"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (UserInputError("no candidate meets the budget"), False),
        (NumericsError("NaN"), False),
        (OccupiedError("exists"), True),
        (PausedError("full"), True),
        (KeyboardInterrupt(), True),
    ],
)
def test_only_work_that_the_same_command_can_go_on_with_is_kept(error, kept, tmp_path):
    out = tmp_path / "a" / "b" / "out"
    with contextlib.suppress(type(error)), open_journal(out) as journal:
        journal.begin({"ratio": 0.1}, force=False)
        journal.keep("step", 1)
        raise error
    assert work_folder(out).exists() == kept
    if not kept:
        assert list(tmp_path.iterdir()) == [], "folders on the way to the output, too"


def test_a_refusal_before_the_job_is_known_costs_nobody_his_work(tmp_path):
    out = tmp_path / "out"
    killed(out, [{"a": 1}])
    with contextlib.suppress(UserInputError), open_journal(out):
        raise UserInputError("no such model")
    with open_journal(out) as journal:
        journal.begin({"a": 1}, force=False)
        assert journal.recall("step") is not None
