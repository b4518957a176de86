"""Tensors that lie in files, for models that do not fit in memory.

A page of a mapped file is in memory from its first use on.  Dropped, it takes no memory, and comes back from the file
when it is used again: so what a job holds is what it works on.  Pages are dropped on Linux; elsewhere the system takes
them when it needs them.
"""

import ctypes
import mmap
import tempfile
from bisect import bisect
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_MAPS = Path("/proc/self/maps")

_LARGE = 2 << 20
"""Bytes of the largest page: one access may bring in that much of a file."""


def drop_pages(tensors: Iterable[Tensor]) -> None:
    """Take the pages of those tensors that lie in mapped files out of memory; they must be contiguous.

    With them go their neighbours' in the same file, up to `_LARGE`.  Parameters are replaced and never written into
    (`surgery.py`), so no page differs from its file.  Tensors may be given one after the other as they are done with,
    but all of them must be there from the beginning, when the mapped files are looked up.
    """
    files = _mapped_files()
    for tensor in tensors:
        span = _span(files, tensor)
        if span is not None:
            start = max(span[0], tensor.data_ptr() // _LARGE * _LARGE)
            end = min(span[1], -(-(tensor.data_ptr() + tensor.nbytes) // _LARGE) * _LARGE)
            _madvise(start, end - start)


def drop_all_pages() -> None:
    """Take the pages of all safetensors files out of memory."""
    for line in _lines():
        if line.rstrip().endswith(b".safetensors"):
            start, end = _addresses(line)
            _madvise(start, end - start)


def is_mapped(tensor: Tensor) -> bool:
    """Tell whether a tensor lies in a mapped file; true where the system does not say."""
    files = _mapped_files()
    return not files or not tensor.nbytes or _span(files, tensor) is not None


def to_file(tensor: Tensor, folder: Path) -> Tensor:
    """Copy the values to a file of `folder` that has no name: it is gone with the tensor, or with the process."""
    tensor = tensor.detach().contiguous()
    if not tensor.numel():
        return tensor
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        tensor.view(-1).view(torch.uint8).numpy().tofile(file)  # a full disk is an error here, and not a signal
        file.flush()
        return torch.from_file(file.name, shared=True, size=tensor.numel(), dtype=tensor.dtype).view(tensor.shape)


class UsedPages:
    """Tensors that were used, whose pages are dropped when they take at least `_LARGE` together."""

    def __init__(self) -> None:
        self._waiting: list[Tensor] = []

    def add(self, *tensors: Tensor) -> None:
        """Let the pages of tensors go, soon."""
        self._waiting.extend(tensors)
        if sum(tensor.nbytes for tensor in self._waiting) >= _LARGE:
            drop_pages(self._waiting)
            self._waiting.clear()


def drop_after_use(model: nn.Module) -> None:
    """Make every layer, and what else has weights, drop its pages and those of its input when it has been called."""
    used = UsedPages()

    def after(module: nn.Module, args: tuple[Any, ...], _: Any) -> None:
        used.add(*module.parameters(), *(x for x in args if isinstance(x, Tensor)))

    for module in _parts(model):
        module.register_forward_hook(after, always_call=True)  # a look at what a layer reads ends with an exception


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    """Return the entries of lists of modules, as layers are, and outside of them the modules that have weights."""
    for child in module.children():
        if isinstance(module, nn.ModuleList) or child._parameters:
            yield child
        else:
            yield from _parts(child)


def _mapped_files() -> list[tuple[int, int]]:
    """First address and end of every mapped file, in order."""
    return [_addresses(line) for line in _lines() if b"/" in line]


def _lines() -> list[bytes]:
    return _MAPS.read_bytes().splitlines() if _MAPS.exists() else []


def _addresses(line: bytes) -> tuple[int, int]:
    start, end = line.partition(b" ")[0].split(b"-")
    return int(start, 16), int(end, 16)


def _span(files: list[tuple[int, int]], tensor: Tensor) -> tuple[int, int] | None:
    """Return the mapped file that the tensor lies in."""
    if tensor.device.type != "cpu" or not tensor.nbytes:
        return None
    start = tensor.data_ptr()
    at = bisect(files, start, key=lambda span: span[0]) - 1
    return files[at] if at >= 0 and start + tensor.nbytes <= files[at][1] else None


def _madvise(start: int, length: int) -> None:
    ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_DONTNEED)
