"""Exact assignment of the neurons of two FFNs, by the solvers that could do it, in one run.

    OMP_NUM_THREADS=1 python benchmarks/assignment.py [--sizes 576 2048 4096]

The cost is minus the correlation of random features; of the second FFN, half are those of the first in another order
with noise on them ("near"), or none are ("far").  All solvers must find the same total.  Times are of one solve.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import ot
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from neuromeld.transport import assign

Indices = np.ndarray


def problem(f: int, *, near: bool) -> np.ndarray:
    """Correlations `(f, f)`."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(512, f, generator=generator)
    b = torch.randn(512, f, generator=generator)
    if near:
        half = torch.randperm(f, generator=generator)[: f // 2]
        b[:, : f // 2] = a[:, half] + 0.5 * b[:, : f // 2]
    found: np.ndarray = torch.corrcoef(torch.cat([a, b], dim=1).T)[:f, f:].double().numpy()
    return found


def ours(gain: np.ndarray) -> Indices:
    return assign(torch.from_numpy(gain)).numpy()


def pot_emd(gain: np.ndarray) -> Indices:
    uniform = np.full(len(gain), 1 / len(gain))
    plan: np.ndarray = ot.emd(uniform, uniform, 1 - gain, numItermax=100_000_000)
    return plan.argmax(axis=1)


def scipy_sparse(gain: np.ndarray) -> Indices:
    found: Indices = min_weight_full_bipartite_matching(csr_array(2 - gain))[1]
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--sizes", type=int, nargs="+", default=[576, 2048, 4096])
    options = arguments.parse_args()
    solvers: tuple[Callable[[np.ndarray], Indices], ...] = (ours, pot_emd, scipy_sparse)
    print("| problem | solver | total | seconds | ratio to ours |\n|---|---|---|---|---|")
    for f in options.sizes:
        for near in (True, False):
            gain, base = problem(f, near=near), 0.0
            for solve in solvers:
                started = time.perf_counter()
                found = solve(gain)
                seconds = time.perf_counter() - started
                base = base or seconds
                total = gain[np.arange(f), found].sum()
                kind = "near" if near else "far"
                print(
                    f"| {kind} {f} | {solve.__name__} | {total:.6f} | {seconds:.3f} | {seconds / base:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
