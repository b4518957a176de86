"""Which layers may go without breaking the pattern of those that stay."""

from types import SimpleNamespace
from typing import Any

from hypothesis import given, strategies

from neuromeld.stages.drop_layers import pattern_warning


def warning(entries: list[Any], dropped: list[int] | None, number: int = 0) -> str | None:
    config: Any = SimpleNamespace(layer_types=entries, other=None)
    return pattern_warning(config, ("layer_types", "other"), dropped, number or len(dropped or ()))


@given(
    unit=strategies.lists(strategies.sampled_from("ab"), min_size=2, max_size=6),
    times=strategies.integers(2, 4),
    data=strategies.data(),
)
def test_what_is_left_follows_the_pattern_or_there_is_a_warning(unit, times, data):
    """The oracle: an engine that computes the pattern gives layer i the kind of the i-th of all."""
    entries = unit * times
    dropped = data.draw(
        strategies.sets(strategies.integers(0, len(entries) - 1), min_size=1, max_size=len(entries) - 1)
    )
    kept = [entry for layer, entry in enumerate(entries) if layer not in dropped]
    computed = [unit[layer % len(unit)] for layer in range(len(kept))]
    assert (warning(entries, sorted(dropped)) is None) == (kept == computed)


def test_whole_periods_keep_the_pattern_wherever_they_are():
    gemma = (["sliding_attention"] * 5 + ["full_attention"]) * 3
    assert warning(gemma, None, 6) is None
    assert all(warning(gemma, list(range(start, start + 6))) is None for start in range(12))
    found = warning(gemma, None, 2)
    assert found is not None
    assert "full_attention and sliding_attention with a period of 6" in found
    assert "llama.cpp" in found


def test_without_a_pattern_there_is_nothing_to_break():
    assert warning(["full_attention"] * 6, [2]) is None
    windows = ["full_attention"] * 3 + ["sliding_attention"] * 4
    assert warning(windows, [6]) is None
    assert warning(windows, [0]) is not None
    assert warning(windows, None, 7) is not None
