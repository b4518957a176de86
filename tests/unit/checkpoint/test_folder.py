import subprocess

import pytest
import torch
from safetensors.torch import save_file

from neuromeld.checkpoint import check_free, new_folder, save_checkpoint
from neuromeld.errors import CheckpointError, UserInputError
from unit.checkpoint.tiny import build_tokenizer, names


def old_checkpoint(folder):
    folder.mkdir()
    (folder / "config.json").write_text("old")
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
    (out / "stale").touch()
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
    with pytest.raises(UserInputError, match=r"home is not a checkpoint \(it has no config.json\)"):
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
