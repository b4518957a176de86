"""Layers that differ by a pattern, as sliding and full attention by turns, and what is left of it without some."""

from collections.abc import Iterable, Sequence

from transformers import PretrainedConfig

from neuromeld.archs.keys import read_key


def pattern_warning(
    config: PretrainedConfig, layer_lists: Iterable[str], dropped: Sequence[int] | None, number: int
) -> str | None:
    """Warn of what engines that compute the pattern, and do not read it, would get wrong; None where they do not.

    layer_lists   the config keys of lists with an entry for every layer
    dropped       the layers that go; None for any `number` of adjacent ones that a search is to choose
    """
    for key in layer_lists:
        entries = list(read_key(config, key) or ())
        if len(set(map(str, entries))) < 2:
            continue
        period = _period(entries)
        if dropped is None and number % period == 0 and period < len(entries):
            continue
        kept = [entry for layer, entry in enumerate(entries) if layer not in (dropped or ())]
        if dropped is not None and kept == entries[: len(kept)]:
            continue
        kinds = " and ".join(sorted(set(map(str, entries))))
        by = f" with a period of {period}" if period < len(entries) else ""
        what = (
            "dropping layers breaks, unless the last ones are chosen"
            if dropped is None
            else (f"dropping layers {', '.join(map(str, dropped))} breaks")
        )
        advice = f"; to keep the pattern drop a multiple of {period} adjacent layers, or the last ones" if by else ""
        return (
            f"the layers of this model differ by a pattern ({key}: {kinds}{by}), which {what}. transformers reads the "
            f"result right, and so does any engine that reads {key} from config.json, as newer versions of vLLM; "
            f"engines that compute the pattern themselves, as llama.cpp, read it wrongly{advice}"
        )
    return None


def _period(entries: Sequence[object]) -> int:
    """Return the smallest step at which entries repeat; their number where they do not."""
    return next(
        step
        for step in range(1, len(entries) + 1)
        if all(entries[i] == entries[i + step] for i in range(len(entries) - step))
    )
