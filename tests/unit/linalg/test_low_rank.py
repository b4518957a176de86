"""The best matrix of a rank under weights on rows and a second moment on what reads them."""

import torch

from neuromeld.linalg.low_rank import DAMPING, weighted_low_rank


def problem():
    draw = torch.Generator().manual_seed(0)
    table = torch.randn(50, 12, generator=draw, dtype=torch.float64)
    rows = torch.rand(50, generator=draw, dtype=torch.float64) + 0.1
    x = torch.randn(200, 12, generator=draw, dtype=torch.float64) * torch.linspace(0.1, 3, 12)
    return table, rows, x.T @ x / 200


def damped(moment):
    return moment / moment.diagonal().mean() + DAMPING * torch.eye(len(moment), dtype=moment.dtype)


def error(table, other, rows, moment):
    missing = table - other
    return float(torch.einsum("vd,de,ve,v->", missing, damped(moment), missing, rows))


def test_no_descent_from_random_starts_finds_a_better_one():
    table, rows, moment = problem()
    found = weighted_low_rank(table, rows, moment, 4)
    best = error(table, found.left @ found.right, rows, moment)
    assert abs(best / error(table, torch.zeros_like(table), rows, moment) - found.lost) < 1e-9
    for seed in range(3):
        draw = torch.Generator().manual_seed(seed)
        left, right = (torch.randn(size, generator=draw, dtype=torch.float64) for size in ((50, 4), (4, 12)))
        weights, h = rows.sqrt()[:, None], damped(moment)
        for _ in range(60):  # alternating least squares of the same error
            left = table @ h @ right.T @ torch.linalg.inv(right @ h @ right.T)
            right = torch.linalg.lstsq(weights * left, weights * table).solution
        assert error(table, left @ right, rows, moment) >= best * (1 - 1e-9)
        assert error(table, left @ right, rows, moment) < best * 1.01


def test_full_rank_is_the_table_and_no_moment_is_the_identity():
    table, rows, moment = problem()
    full = weighted_low_rank(table, rows, moment, 12)
    torch.testing.assert_close(full.left @ full.right, table)
    plain = weighted_low_rank(table, torch.ones(50, dtype=torch.float64), None, 3)
    u, s, v = torch.linalg.svd(table, full_matrices=False)
    torch.testing.assert_close(plain.left @ plain.right, u[:, :3] * s[:3] @ v[:3])
