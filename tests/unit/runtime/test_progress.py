"""Progress where there is no terminal: whole lines, and not too many."""

import pytest

from neuromeld.runtime import progress

WHAT = "a part of the job with a name that is longer than half of a line of a terminal"


@pytest.mark.parametrize(("seconds", "told"), [(0.0, [1, 2, 3]), (3600.0, [])])
def test_lines_are_whole_and_at_least_so_far_apart(seconds, told, capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", seconds)
    with progress.track(WHAT, 3, enabled=True) as advance:
        for done in (1, 2, 3):
            advance(done)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [f"{WHAT} (3 steps)", *(f"{WHAT}: {done} of 3 steps, 0 s" for done in told)]


def test_nothing_is_said_where_nothing_was_asked(capsys):
    with progress.track(WHAT, 3, enabled=False) as advance:
        advance(1)
    assert capsys.readouterr() == ("", "")
