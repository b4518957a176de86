"""Dimension letters and precisions, said once.

    n  calibration tokens             d  width of the residual stream as trained
    k  width it is narrowed to        f  width of an FFN
    v  vocabulary                     l  layers

Everything is in row vectors: activations are `(n, d)`, and a weight maps `x -> x @ W` with `W` of shape `(in, out)`.
"""

import torch

ACCUMULATE = torch.float64
"""Statistics, factorisations and solves are done in this dtype and cast back once, at the write."""
