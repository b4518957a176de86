"""Tests run on one thread: tiny matrices are slower on more, and sums do not depend on how many there are."""

import torch

torch.set_num_threads(1)
