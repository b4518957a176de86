"""Where a rank works; what ranks do together is in tests/cli/test_ranks.py."""

import pytest

from neuromeld.runtime.distributed import own_device


@pytest.mark.parametrize(
    ("asked", "rank", "given"),
    [("cuda", "1", "cuda:1"), ("cuda:0", "1", "cuda:0"), ("cpu", "1", "cpu"), ("cuda", None, "cuda")],
)
def test_every_rank_has_a_gpu_of_its_own(asked, rank, given, monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert own_device(asked) == given
