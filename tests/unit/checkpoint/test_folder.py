import json
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from neuromeld.checkpoint import check_free, new_folder, save_checkpoint
from neuromeld.checkpoint.folder import written_files
from neuromeld.errors import CheckpointError, UserInputError
from unit.checkpoint.tiny import build_tokenizer, names


def old_checkpoint(folder):
    folder.mkdir()
    (folder / "config.json").write_text("old")
    (folder / "record.json").write_text(json.dumps({"files": written_files(folder)}))
    return folder


def test_the_folder_appears_at_the_end_and_whole(tmp_path):
    out = tmp_path / "runs" / "a" / "out"
    with new_folder(out, force=False) as folder:
        (folder / "config.json").write_text("new")
        assert folder.parent == out.parent
        assert not out.exists()
    assert (out / "config.json").read_text() == "new"
    assert names(out.parent) == ["out"]
    assert out.stat().st_mode == tmp_path.joinpath("runs").stat().st_mode, "as readable as any other new folder"


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("force", [False, True])
def test_a_failure_leaves_what_was_there(tmp_path, failure, force):
    out = tmp_path / "out"
    if force:
        old_checkpoint(out)

    def run():
        with new_folder(out, force=force) as folder:
            (folder / "config.json").write_text("new")
            raise failure

    with pytest.raises(failure):
        run()
    assert names(tmp_path) == (["out"] if force else [])
    if force:
        assert (out / "config.json").read_text() == "old"


def test_force_replaces_the_whole_folder(tmp_path):
    out = old_checkpoint(tmp_path / "out")
    (out / "report.html").touch()
    with new_folder(out, force=True) as folder:
        (folder / "config.json").write_text("new")
        assert (out / "config.json").read_text() == "old"
    assert names(out) == ["config.json"]
    assert (out / "config.json").read_text() == "new"
    assert names(tmp_path) == ["out"]


def test_the_old_folder_returns_if_the_rename_fails(tmp_path, monkeypatch):
    out = old_checkpoint(tmp_path / "out")
    rename = type(out).rename

    def failing(path, target):
        if ".partial-" in path.name:
            raise OSError("no")
        return rename(path, target)

    monkeypatch.setattr(type(out), "rename", failing)
    with pytest.raises(OSError, match="no"), new_folder(out, force=True):
        pass
    assert names(tmp_path) == ["out"]
    assert (out / "config.json").read_text() == "old"


def test_a_folder_that_came_to_be_meanwhile_is_kept(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserInputError, match="exists"), new_folder(out, force=False):
        old_checkpoint(out)
    assert (out / "config.json").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_what_cannot_be_written_is_refused_early(tmp_path):
    existing, file, home = old_checkpoint(tmp_path / "existing"), tmp_path / "file", tmp_path / "home"
    file.touch()
    home.mkdir()
    check_free(home, force=True)
    (home / "thesis.tex").touch()
    with pytest.raises(UserInputError, match=r"existing exists; .*--force"):
        check_free(existing, force=False)
    with pytest.raises(UserInputError, match="file is a file"):
        check_free(file, force=True)
    with pytest.raises(UserInputError, match=r"home, as it holds what this program did not write: thesis.tex"):
        check_free(home, force=True)
    with pytest.raises(UserInputError, match="file is not a folder that can be written to"):
        check_free(file / "out", force=False)
    check_free(existing, force=True)
    check_free(tmp_path / "a" / "b", force=False)


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting needs root")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("writer", ["python", "safetensors"])
def test_a_full_disk_is_named(small_disk, writer):
    def run():
        with new_folder(small_disk / "out", force=False) as folder:
            if writer == "python":
                (folder / "big").write_bytes(bytes(3 << 20))
            else:
                save_file({"big": torch.zeros(3 << 18)}, folder / "big.safetensors")

    with pytest.raises(CheckpointError, match=r"out is full: more than [\d,]+ bytes are needed, [\d,]+ are free"):
        run()
    assert names(small_disk) == []


def test_a_model_too_big_for_the_disk_is_refused_before_writing(small_disk):
    big = torch.nn.Linear(1024, 1024)
    with (
        pytest.raises(CheckpointError, match=r"is full: 4,198,400 bytes are needed, 2,097,152 are free"),
        new_folder(small_disk / "out", force=False) as folder,
    ):
        save_checkpoint(big, build_tokenizer(), folder, recipe_yaml="")


STRANGERS = {
    "a file": lambda out: (out / "thesis.tex").touch(),
    "a file in a folder": lambda out: ((out / "src").mkdir(), (out / "src" / "work.txt").touch()),
    "an empty folder": lambda out: (out / ".git").mkdir(),
    "a link": lambda out: (out / "x").symlink_to("/"),
    "a link to a file": lambda out: ((out / "config.json").unlink(), (out / "config.json").symlink_to("/dev/null")),
    "no record": lambda out: (out / "record.json").unlink(),
    "a record of something else": lambda out: (out / "record.json").write_text('{"files": 3}'),
    "a record that is no object": lambda out: (out / "record.json").write_text("[]"),
    "a damaged record": lambda out: (out / "record.json").write_text('{"files": ["con'),
}


@pytest.mark.parametrize("what", STRANGERS)
def test_force_replaces_only_what_this_program_wrote(what, tmp_path):
    out = old_checkpoint(tmp_path / "out")
    STRANGERS[what](out)
    before = sorted(path.relative_to(out) for path in out.rglob("*"))
    with pytest.raises(UserInputError, match="out, as it holds what this program did not write"):
        check_free(out, force=True)
    with pytest.raises(UserInputError, match="did not write"), new_folder(out, force=True):
        pass
    assert sorted(path.relative_to(out) for path in out.rglob("*")) == before
    assert names(tmp_path) == ["out"]


def test_standard_output_is_no_folder():
    with pytest.raises(UserInputError, match="a checkpoint is a folder"):
        check_free(Path("-"), force=False)


def test_an_output_that_is_a_link_is_refused(tmp_path):
    old_checkpoint(tmp_path / "model")
    for name, target in (("out", "model"), ("dangling", "nowhere")):
        (tmp_path / name).symlink_to(target)
        with pytest.raises(UserInputError, match=f"{name} is a link to {target}"):
            check_free(tmp_path / name, force=True)


@pytest.mark.parametrize(
    ("source", "out"),
    [
        ("model", "model"),
        ("model", "other/../model"),
        ("model", "link/model"),
        ("link/model", "model"),
        ("model", "model/out"),
        ("model", "link/model/a/b"),
        ("runs/model", "runs"),
        ("linked", "model"),
        ("runs/tiny.gguf", "runs"),
    ],
)
def test_source_and_output_may_not_lie_in_one_another(source, out, tmp_path):
    old_checkpoint(tmp_path / "model")
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "runs" / "model").mkdir(parents=True)
    (tmp_path / "runs" / "tiny.gguf").touch()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "model.safetensors").symlink_to(tmp_path / "model" / "config.json")
    with pytest.raises(UserInputError, match="lie in one another"):
        check_free(tmp_path / out, force=True, source=str(tmp_path / source))


@pytest.mark.parametrize("source", ["org/name", "package:x", "~nobody/x", "n" * 300, "nowhere"])
def test_a_source_that_is_no_folder_is_in_nobodys_way(source, tmp_path):
    check_free(tmp_path / "out", force=False, source=source)


@pytest.mark.parametrize("name", ["n" * 300, "n" * 240, "a\0b"])
def test_a_name_that_no_folder_can_have(name, tmp_path):
    with pytest.raises(UserInputError, match=r"too long|cannot be the output"):
        check_free(tmp_path / name, force=False)
