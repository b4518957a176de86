"""Every command-line test has a cache of its own, in which the machine is measured already."""

import shutil
from pathlib import Path

import pytest

from cli.commands import run


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What this machine does in a second, which takes seconds to find out: once for all tests."""
    from neuromeld.evaluation.throughput import throughput_of

    cache = tmp_path_factory.mktemp("measured")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEUROMELD_CACHE", str(cache))
        throughput_of("cpu")
    return cache / "throughput"


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, measured: Path) -> None:
    cache = tmp_path_factory.mktemp("cache")
    shutil.copytree(measured, cache / "throughput")
    monkeypatch.setenv("NEUROMELD_CACHE", str(cache))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cache)


@pytest.fixture
def cli(capsys, monkeypatch):
    return lambda *arguments: run(capsys, monkeypatch, *arguments)
