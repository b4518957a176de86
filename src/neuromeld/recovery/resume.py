"""Whether an unfinished run beside an output is worth going on from."""

from pathlib import Path

from neuromeld.runtime.journal import SUFFIX

LAYERWISE = "layerwise-"
"""What the steps of layers that were trained by themselves are called, before their numbers."""

RATE = "rate "
"""What the trials of learning rates are called, before the rate."""

TRAINING = "training"
"""What the state of the training is called."""


def holds_work(work: Path) -> bool:
    """Tell whether a work folder holds layers that were trained, rates that were tried, or the state of a training."""
    return any(found for name in (LAYERWISE, RATE, TRAINING) for found in work.glob(f"{name}*{SUFFIX}"))
