import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from neuromeld.stats import CrossMoments, StatisticsStore, StreamMoments, cache_key

KEY = cache_key(model="tiny", layer=3)


def some_stats() -> dict[str, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    moments, cross = StreamMoments(5, centre=False, eps=1e-6), CrossMoments(5, 3)
    x, y = torch.randn(9, 5, generator=generator), torch.randn(9, 3, generator=generator)
    moments.update(x)
    cross.update(x, y)
    return {"layers.0/attention": moments.state(), "layers.0/ffn": cross.state()}


@pytest.fixture
def store(tmp_path: Path) -> StatisticsStore:
    return StatisticsStore(tmp_path / "cache")


def only_file(store: StatisticsStore) -> Path:
    (path,) = store.folder.iterdir()
    return path


def assert_holds(store: StatisticsStore, stats: dict[str, dict[str, Tensor]]) -> None:
    loaded = store.load(KEY)
    assert loaded is not None
    torch.testing.assert_close(loaded, stats, rtol=0, atol=0)


def test_round_trip_of_bits(store: StatisticsStore) -> None:
    store.save(KEY, some_stats())
    assert_holds(store, some_stats())
    assert only_file(store).name == f"{KEY}.safetensors"


def test_a_transposed_state_survives(store: StatisticsStore) -> None:
    stats = {"s": {"m": torch.arange(6.0).reshape(2, 3).T}}
    store.save(KEY, stats)
    assert_holds(store, stats)


def test_an_unknown_key_is_missing(store: StatisticsStore) -> None:
    assert store.load(KEY) is None


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_truncated_file_is_missing_and_rewritten(store: StatisticsStore, kept: int) -> None:
    store.save(KEY, some_stats())
    path = only_file(store)
    path.write_bytes(path.read_bytes()[:kept])
    assert store.load(KEY) is None
    store.save(KEY, some_stats())
    assert_holds(store, some_stats())


def test_a_flipped_bit_is_noticed(store: StatisticsStore) -> None:
    store.save(KEY, some_stats())
    path = only_file(store)
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    assert store.load(KEY) is None


def test_an_interrupted_save_leaves_the_old_file(store: StatisticsStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save(KEY, some_stats())

    def interrupted(_: dict[str, Tensor], path: os.PathLike[str], **__: object) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("neuromeld.stats.store.save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.save(KEY, {"other": {"x": torch.zeros(1)}})
    assert_holds(store, some_stats())
    assert only_file(store).name == f"{KEY}.safetensors"


def test_keys_are_stable_across_order_and_versions() -> None:
    assert cache_key(a=1, b=[2, "c"]) == cache_key(b=[2, "c"], a=1)
    assert cache_key(a=1, b=[2, "c"]) == "d765e5ded987639d0b8c141a5139872fb2da76c38cc4210db56c16d93ba9c24e"


def test_keys_differ_in_every_fact() -> None:
    keys = {cache_key(model="m", tokens=1), cache_key(model="m", tokens=2), cache_key(model="n", tokens=1)}
    assert len(keys) == 3


def test_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NEUROMELD_CACHE", str(tmp_path))
    assert StatisticsStore().folder == tmp_path / "stats"
    monkeypatch.delenv("NEUROMELD_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert StatisticsStore().folder == tmp_path / ".cache" / "neuromeld" / "stats"
