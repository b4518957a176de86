"""Pages of files come and go, and nothing is lost that does not lie in one."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from neuromeld.runtime.paging import drop_after_use, drop_pages, is_mapped, to_file

SMAPS = Path("/proc/self/smaps")
PAGE, LARGE = 4096, 2 << 20

pytestmark = pytest.mark.skipif(not SMAPS.exists(), reason="only Linux says what of a file is in memory")


def resident(path: Path) -> int:
    """Bytes of the mappings of a file that are in memory."""
    total, ours = 0, False
    for line in SMAPS.read_text().splitlines():
        if "-" in line.split()[0]:
            ours = str(path) in line
        elif ours and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


@pytest.fixture
def mapped(tmp_path):
    """Two tensors of 4 MB on one file, that starts with another, so that none starts with a page; and the file."""
    path = tmp_path / "weights.safetensors"
    torch.manual_seed(0)
    save_file({"a": torch.ones(3), "b": torch.randn(1024, 1024), "c": torch.randn(1024, 1024)}, path)
    with safe_open(path, framework="pt") as file:
        return file.get_tensor("b"), file.get_tensor("c"), path


def test_pages_are_dropped_and_come_back(mapped):
    first, second, path = mapped
    sums = first.sum(), second.sum()
    assert resident(path) >= first.nbytes + second.nbytes
    drop_pages([second])
    assert first.nbytes - LARGE <= resident(path) <= first.nbytes + 2 * PAGE
    drop_pages([first])
    assert resident(path) <= 2 * PAGE
    assert (first.sum(), second.sum()) == sums


def test_what_lies_in_no_file_is_left_alone(mapped):
    torch.manual_seed(1)
    tensors = [torch.randn(1 << 20), mapped[0].clone(), nn.Parameter(torch.randn(700)), torch.empty(0)]
    before = [tensor.clone() for tensor in tensors]
    drop_pages(tensors)
    for tensor, copy in zip(tensors, before, strict=True):
        assert torch.equal(tensor, copy)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_a_tensor_in_a_file_is_the_same_and_leaves_no_name(tmp_path, dtype):
    tensor = torch.arange(3000).to(dtype).reshape(30, 100).T
    held = to_file(tensor, tmp_path)
    assert held.dtype == dtype
    assert torch.equal(held, tensor)
    assert list(tmp_path.iterdir()) == []
    assert resident(tmp_path) >= held.nbytes // PAGE * PAGE
    held += 1
    drop_pages([held])
    assert resident(tmp_path) == 0
    assert torch.equal(held, tensor + 1)  # what was written is kept
    assert to_file(torch.empty(0, 3), tmp_path).shape == (0, 3)


class Stop(Exception):
    pass


class Layer(nn.Module):
    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.linear = nn.Linear(*weight.shape, bias=False, device="meta")
        self.linear.weight = nn.Parameter(weight)
        self.stops = False

    def forward(self, x):
        x = self.linear(x)
        if self.stops:
            raise Stop
        return x


def test_a_layer_that_was_called_drops_its_pages_and_its_input(mapped, tmp_path):
    first, second, path = mapped
    model = nn.Module()
    model.layers = nn.ModuleList([Layer(first), Layer(second)])
    model.norm = nn.LayerNorm(4)
    assert [is_mapped(parameter) for parameter in model.parameters()] == [True, True, False, False]
    drop_after_use(model)
    folder = tmp_path / "held"
    folder.mkdir()
    x = to_file(torch.randn(64, 1024), folder)
    expected = x @ first.T @ second.T
    drop_pages([first, second, x])
    for layer in model.layers:
        x = layer(x)
    torch.testing.assert_close(x, expected)
    assert resident(path) <= 2 * PAGE
    assert resident(folder) == 0
    model.layers[1].stops = True
    with pytest.raises(Stop):
        model.layers[1](expected)
    assert resident(path) <= 2 * PAGE
