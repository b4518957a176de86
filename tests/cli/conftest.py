"""Every command-line test has a cache of its own."""

import pytest

from cli.commands import run


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("NEUROMELD_CACHE", str(cache))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cache)


@pytest.fixture
def cli(capsys, monkeypatch):
    return lambda *arguments: run(capsys, monkeypatch, *arguments)
