import pytest

from unit.checkpoint.tiny import build_stock, write


@pytest.fixture
def llama():
    return build_stock("llama")


@pytest.fixture
def folder(llama, tmp_path):
    """The tiny Llama, saved."""
    return write(llama, tmp_path / "tiny")
