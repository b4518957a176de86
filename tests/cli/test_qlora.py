"""`neuromeld recover --qlora` as a user meets it (`pip install '.[qlora]'`)."""

import json

import pytest

pytest.importorskip("bitsandbytes", reason="pip install '.[qlora]'")


def test_command_says_what_the_matrices_took(cli, checkpoint, text, tmp_path):
    small = ["--steps", 2, "--batch-tokens", 64, "--seqlen", 16]
    code, stdout, stderr = cli("recover", checkpoint, tmp_path / "out", "--train", text, *small, "--qlora")
    assert code == 0, stderr
    record = json.loads((tmp_path / "out" / "record.json").read_text())["recovery"]
    assert record["settings"]["base_bits"] == 4
    assert record["settings"]["lora_rank"] == 16
    held, own = (record["matrix_bytes"][key] / 1e6 for key in ("held", "own_dtype"))
    assert f"held in {held:.1f} MB of {own:.1f} MB" in " ".join(stdout.split())
