"""A budget whose finalists are compared after a short training."""

import json

from cli.commands import CALIBRATION


def test_candidates_are_ranked_after_a_training(cli, checkpoint, text, tmp_path):
    options = ["--keep", 0.8, "--calibration", text, *CALIBRATION, "--rank-after", "4K", "--json"]
    code, stdout, stderr = cli("compress", checkpoint, tmp_path / "out", *options)
    assert code == 0, stderr
    record = json.loads(stdout)
    finalists = [c for c in record["candidates"] if c["measured_loss"] is not None]
    assert len(finalists) > 1
    assert all(c["tuned_loss"] is not None for c in finalists)
    (chosen,) = [c for c in finalists if c["chosen"]]
    assert chosen["tuned_loss"] <= min(c["tuned_loss"] for c in finalists) + chosen["uncertainty"]
    assert "after a short training" in (tmp_path / "out" / "report.html").read_text()
    for more, message in (["--vocab-from", text], "tokens stay"), (["--max-memory", "2GB"], "moments in memory"):
        code, _, stderr = cli("compress", checkpoint, tmp_path / "other", *options, *more)
        assert code == 2
        assert message in stderr
    for tokens, message in (
        ("100", "less than one update"),
        ("-5K", "less than one update"),
        ("many", "must be a number"),
    ):
        code, _, stderr = cli("compress", checkpoint, tmp_path / "other", *options[:-2], tokens)
        assert code == 2
        assert message in stderr
