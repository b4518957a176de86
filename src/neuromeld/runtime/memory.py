"""Measure and limit the memory of this process."""

import ctypes
import platform
import resource
from contextlib import suppress
from pathlib import Path

from torch import Tensor


def peak_rss_bytes() -> int:
    """Return the largest resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():  # a child's `ru_maxrss` begins with what its parent held
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def all_finite(x: Tensor) -> bool:
    """Tell whether nothing in it is NaN or infinite; unlike `torch.isfinite` this takes no memory."""
    return not x.numel() or all(bool(bound.isfinite()) for bound in x.aminmax())


def release_memory() -> None:
    """Hand back to the system what was freed.

    glibc keeps freed blocks for later; those of matrices of many sizes do not fit each other, so that without this a
    job grows with every layer it has done (docs/decisions/0013).  Elsewhere it does nothing.
    """
    with suppress(AttributeError, OSError, TypeError):  # another C library, or none to be found by no name
        ctypes.CDLL(None).malloc_trim(0)


def keep_no_freed_memory() -> None:
    """Let freed blocks of a megabyte or more go back to the system at once, for the rest of this process.

    What it holds is then what it uses, and can be predicted.  glibc only, as `release_memory`.
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 20)


_M_MMAP_THRESHOLD = -3
