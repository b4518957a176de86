"""How much a machine computes, reads and writes in a second: what the time of a job is predicted from."""

import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from pydantic import Field
from torch.nn import functional as F

from neuromeld.errors import UserInputError
from neuromeld.runtime.cache import cache_folder
from neuromeld.settings import Settings, validate
from neuromeld.shapes import ACCUMULATE
from neuromeld.stats.base import TOKENS_PER_BLOCK
from neuromeld.stats.gram import Gram

SECONDS = 0.1
"""Of each measurement, after a first run that does not count."""

FILE_BYTES = 1 << 26

MATRIX_ROWS = 4096

SIZES = {"cpu": (512, 512, 1024), "cuda": (8192, 2048, 8192)}
"""By type of device: tokens, width and hidden neurons of the FFN that is run."""


class Throughput(Settings):
    """Hold what a machine does in a second."""

    device: str = Field(description="The device, and its threads where it is a processor.")
    float32: float = Field(description="Operations of forward passes in float32.", gt=0)
    bfloat16: float = Field(description="The same in bfloat16, and in float16.", gt=0)
    float64: float = Field(description="Operations of products in float64, as in factorisations.", gt=0)
    sums: float = Field(description="Operations of sums x^T x in float64.", gt=0)
    memory: float = Field(description="Bytes of weights that products with one vector read.", gt=0)
    bus: float = Field(description="Bytes that are copied to the device.", gt=0)
    disk: float = Field(description="Bytes that are written, or read and hashed.", gt=0)

    def of(self, dtype: str) -> float:
        """Return the operations of forward passes in a format, as `bfloat16`."""
        return self.float32 if dtype == "float32" else self.float64 if dtype == "float64" else self.bfloat16


def throughput_of(device: str) -> Throughput:
    """Return what this machine does with a device: measured in about a second, once, and kept in the cache."""
    path = cache_folder() / "throughput" / f"{_key(device)}.json"
    with suppress(OSError, ValueError, UserInputError):  # a cache spares time; what is broken is measured again
        return validate(Throughput, json.loads(path.read_text()), "throughput")
    found = measured_throughput(torch.device(device), path.parent)
    with suppress(OSError), tempfile.TemporaryDirectory(dir=path.parent) as beside:
        (Path(beside) / "unfinished").write_text(found.model_dump_json())
        (Path(beside) / "unfinished").replace(path)
    return found


def measured_throughput(device: torch.device, folder: Path) -> Throughput:
    """Measure a device, and the disk that a folder lies on, which is made."""
    tokens, width, neurons = SIZES["cpu" if device.type == "cpu" else "cuda"]
    passes = {name: _ffn(device, getattr(torch, name), tokens, width, neurons) for name in ("float32", "bfloat16")}
    exact = device if device.type != "mps" else torch.device("cpu")  # Metal has no float64
    block = torch.randn(TOKENS_PER_BLOCK, neurons, device=exact)
    square = torch.randn(neurons, neurons, device=exact, dtype=ACCUMULATE)
    total = torch.zeros_like(square)
    sums = 2 * TOKENS_PER_BLOCK * neurons**2 / _seconds(lambda: Gram(block).add_to(total), exact)
    float64 = 2 * neurons**3 / _seconds(lambda: square @ square, exact)
    weights, vector = torch.randn(MATRIX_ROWS, MATRIX_ROWS, device=device), torch.randn(MATRIX_ROWS, 1, device=device)
    memory = weights.nbytes / _seconds(lambda: weights @ vector, device)
    home = weights.cpu()
    bus = weights.nbytes / _seconds(lambda: weights.copy_(home), device)
    found = {"float64": float64, "sums": sums, "memory": memory, "bus": bus, "disk": _disk(folder)}
    return Throughput(device=_name(device), **passes, **found)


@torch.no_grad()
def _ffn(device: torch.device, dtype: torch.dtype, tokens: int, width: int, neurons: int) -> float:
    """Return the operations a second of a gated FFN: products, and what lies between them."""
    x = torch.randn(tokens, width, device=device, dtype=dtype)
    up, gate = (torch.randn(neurons, width, device=device, dtype=dtype) for _ in range(2))
    down = torch.randn(width, neurons, device=device, dtype=dtype)
    seconds = _seconds(lambda: F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down), device)
    return 6 * tokens * width * neurons / seconds


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    """Return how long it takes: the mean of as many times as `SECONDS` has room for, after a first one.

    Of a processor by its own time, which other programs hardly change, and which may stand still for a while.
    """
    clock, threads = (time.process_time, torch.get_num_threads()) if device.type == "cpu" else (time.perf_counter, 1)

    def wait() -> None:
        if device.type != "cpu":
            torch.zeros(1, device=device).item()  # waits for what came before

    run()
    wait()
    started, times = clock(), 0
    while (elapsed := clock() - started) < SECONDS * threads:
        run()
        wait()
        times += 1
    return elapsed / threads / times


def _disk(folder: Path) -> float:
    """Return the bytes a second of a file that is written, and read and hashed, from the disk where that can be."""
    content = os.urandom(FILE_BYTES)
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):  # else it is read from memory
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        hashlib.file_digest(file, "sha256")
    return 2 * FILE_BYTES / (time.perf_counter() - started)


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{platform.machine()} {device.type}, {threads} thread{'s' if threads > 1 else ''}"


def _key(device: str) -> str:
    """Return what tells machines apart whose throughput may differ."""
    facts = (platform.node(), _name(torch.device(device)), torch.__version__)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
