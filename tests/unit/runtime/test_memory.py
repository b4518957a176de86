"""What is said of memory is said of this process, and looking at a matrix costs none."""

import math
import os
import subprocess
import sys

import pytest
import torch

from neuromeld.runtime.memory import all_finite, peak_rss_bytes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 57, -1])
def test_one_value_that_is_not_finite_is_found(dtype, value, place):
    x = torch.linspace(-3, 3, 1001, dtype=dtype)
    assert all_finite(x)
    x[place] = value
    assert not all_finite(x)
    assert all_finite(x[:0])


def test_the_peak_is_not_that_of_the_process_that_started_it():
    held = torch.ones(1 << 30, dtype=torch.uint8)
    code = "from neuromeld.runtime.memory import peak_rss_bytes; print(peak_rss_bytes())"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) < held.nbytes < peak_rss_bytes()
