"""Tables of options and methods, made from the code."""

from collections.abc import Iterable

from neuromeld.cli.generated_options import FieldOption
from neuromeld.cli.recipes import CALIBRATION_OPTIONS, STAGE_OPTIONS
from neuromeld.stages import STAGES
from neuromeld.stages.experts import selectors as experts_selectors
from neuromeld.stages.share_ffns import COMBINES
from neuromeld.stages.width import merges, selectors
from neuromeld.stages.width.decoders import DECODERS
from neuromeld.units.compensation import COMPENSATIONS
from neuromeld.units.merges import MERGES
from neuromeld.units.selectors import SELECTORS
from result_tables.markdown import words

METHODS = {
    "`experts`: `selector`": experts_selectors.SELECTORS,
    "`heads`, `ffn`: `selector`": SELECTORS,
    "`ffn`: `merge`": MERGES,
    "`heads`, `ffn`: `compensate`": COMPENSATIONS,
    "`width`: `selector`": selectors.SELECTORS,
    "`width`: `merge`": merges.MERGES,
    "`width`: `decoder`": DECODERS,
    "`share_ffns`: `combine`": COMBINES,
}


def options(rows: Iterable[FieldOption]) -> str:
    """Every option of some settings: its key in a recipe, its flag, its default, what it is."""
    return words(
        ("in a recipe", "on the command line", "default", "what it is"),
        [(f"`{row.field}`", f"`{row.flag}`", _default(row), row.info.description or "") for row in rows],
    )


def _default(row: FieldOption) -> str:
    if row.info.is_required():
        return "required"
    value = row.info.default
    return "" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def stage(name: str) -> str:
    """The options of one stage."""
    return options(option for option in STAGE_OPTIONS if option.owner == name)


def calibration() -> str:
    """The options of calibration data."""
    return options(CALIBRATION_OPTIONS)


def stages() -> str:
    """Every stage, in the order in which they run."""
    rows = [(f"[`{stage.name}`]({stage.name}.md)", (stage.Options.__doc__ or "").split("\n")[0]) for stage in STAGES]
    return words(("stage", "what it does"), rows)


def methods() -> str:
    """Every named method: the option that takes it, what it does, what it needs, where it is from."""
    rows = [
        (option, f"`{name}`", method.summary, "; ".join(sorted(method.needs)))
        for option, registry in METHODS.items()
        for name, method in registry.items()
    ]
    return words(("option", "method", "what it does", "needs"), rows)


TABLES = {
    "stages": stages,
    "calibration": calibration,
    "methods": methods,
    **{f"options-{entry.name}": (lambda name=entry.name: stage(name)) for entry in STAGES},
}
