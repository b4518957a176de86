"""The entry of a regression in a record."""

from typing import Any

from neuromeld.linalg.ridge import FitReport


def fit_record(fit: FitReport) -> dict[str, Any]:
    """Return its held-out errors, before and after, its ridge and its condition."""
    return {
        "error_before": fit.error_before,
        "error_after": fit.error_after,
        "ridge": fit.ridge,
        "condition": fit.condition,
    }
