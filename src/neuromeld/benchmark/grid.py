"""A benchmark as data: models x rows x budgets x seeds, by one protocol, before and after the same recovery."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from neuromeld.benchmark.fit import FREE_SIZES, with_size
from neuromeld.data.calibration import Calibration
from neuromeld.data.sources import unknown_source
from neuromeld.errors import UserInputError
from neuromeld.planning import Budget
from neuromeld.planning.effort import EFFORTS
from neuromeld.planning.recipe import parse_recipe
from neuromeld.planning.served import OutputFormat
from neuromeld.recovery import parse_recovery
from neuromeld.registry import unknown_name
from neuromeld.runtime.yaml_text import read_yaml_file
from neuromeld.settings import Seed, Settings, validate

DENSE = "dense"
"""The row of the model as it comes, which every other is compared with; it is always measured."""


class SliceGpt(Settings):
    """The published SliceGPT form, simulated: of `hidden_size`, or of the largest that the budget allows."""

    hidden_size: int | None = Field(None, ge=1)
    narrow_head: bool = True


class Row(Settings):
    """One way to make a model smaller: exactly one of `recipe`, `planner` and `slicegpt`.

    recipe    the stages of a recipe
    fit       the one size that the recipe leaves open, as `ffn.size`: the largest is taken that the budget allows
    planner   let the planner choose a recipe for the budget, with this output format
    calibration  the data of this row, a mixture or `self`, too, where it is not that of the grid
    vocab_from   the text by which the planner may choose tokens
    effort       how much the planner tries, by name
    """

    recipe: dict[str, Any] | None = None
    fit: str | None = None
    planner: OutputFormat | None = None
    vocab_from: str | None = None
    effort: str | None = None
    slicegpt: SliceGpt | None = None
    calibration: str | None = None

    @property
    def needs_budget(self) -> bool:
        """Whether the row is measured once for every budget, and not just once."""
        if self.slicegpt is not None:
            return self.slicegpt.hidden_size is None
        return self.recipe is None or self.fit is not None

    @model_validator(mode="after")
    def _consistent(self) -> "Row":
        if sum(given is not None for given in (self.recipe, self.planner, self.slicegpt)) != 1:
            raise ValueError("give one of recipe, planner and slicegpt")
        if self.calibration is not None and (problems := unknown_source(self.calibration)):
            raise ValueError("; ".join(problems))
        if self.vocab_from is not None and self.planner is None:
            raise ValueError("vocab_from is for the planner; a recipe has it as vocabulary.text")
        if self.effort is not None and self.planner is None:
            raise ValueError("effort is for the planner: say in the recipe what is to be done")
        if self.effort is not None and self.effort not in EFFORTS:
            raise ValueError(unknown_name(EFFORTS.kind, self.effort, list(EFFORTS)))
        if self.recipe is None:
            if self.fit is not None:
                raise ValueError("fit is for the open size of a recipe")
            return self
        if "calibration" in self.recipe:
            raise ValueError("recipe.calibration: the data is the same for all rows, and set for the whole grid")
        if self.fit is not None and self.fit not in FREE_SIZES:
            raise ValueError(unknown_name(FREE_SIZES.kind, self.fit, list(FREE_SIZES)))
        try:
            stages = self.recipe if self.fit is None else with_size(self.recipe, self.fit, FREE_SIZES[self.fit].example)
            parse_recipe(stages)
        except UserInputError as error:
            raise ValueError(str(error)) from None
        return self


class Measuring(Settings):
    """How models are measured: calibration and evaluation are splits of `data`.

    data                 a named source or `file:PATH` of what the model reads: text, images, pairs or speech
    texts                further texts that language models are measured on
    evaluation_tokens    of each text
    evaluation_examples  of anything else, from the first; None is all
    evaluation_dtype     of the weights while they are measured; None is the model's own
    recovery   how every row, the dense one too, is trained after it was measured, to be measured again; as plain values
    """

    data: str = "wikipedia-sample"
    texts: tuple[str, ...] = ()
    split: Literal["validation", "evaluation"] = "evaluation"
    evaluation_tokens: int = 32768
    evaluation_examples: int | None = Field(None, ge=1)
    evaluation_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    calibration_tokens: int = 32768
    seqlen: int = 512
    recovery: dict[str, Any] | None = None


class Protocol(Measuring):
    """How one number was measured, apart from what the row is."""

    model: str
    seed: Seed = 0

    @property
    def calibration(self) -> Calibration:
        """As a recipe has it; passes are in the format of the weights, so that numbers are the same on any machine."""
        return Calibration(
            source=self.data, tokens=self.calibration_tokens, seqlen=self.seqlen, seed=self.seed, passes="own"
        )


@dataclass(frozen=True)
class Case:
    """One line of the results to be: a row, the share of the parameters it may keep if it needs one, a protocol.

    `row` is None for the dense model.
    """

    name: str
    row: Row | None
    keep: float | None
    protocol: Protocol

    @property
    def calibration(self) -> Calibration:
        """The calibration of the row, by default that of the protocol."""
        source = None if self.row is None else self.row.calibration
        return self.protocol.calibration.model_copy(update={"source": source} if source else {})


class Grid(Measuring):
    """All rows of all models at all budgets with all seeds; see `Row` and `Measuring`.

    recovery   keys of a recovery recipe, without the data, the window length and the seed, which are those of the grid
    """

    models: tuple[str, ...]
    keep: tuple[float, ...] = ()
    seeds: tuple[Seed, ...] = (0,)
    rows: dict[str, Row]

    @model_validator(mode="after")
    def _consistent(self) -> "Grid":
        problems = [f"{name} must not be empty" for name in ("models", "seeds", "rows") if not getattr(self, name)]
        if DENSE in self.rows:
            problems.append(f"the row {DENSE!r} is always measured; give yours another name")
        problems += [
            f"the row {name!r} could not be asked for: --rows takes names with ; between; give it another name"
            for name in self.rows
            if ";" in name
        ]
        wanting = [name for name, row in self.rows.items() if row.needs_budget]
        if wanting and not self.keep:
            problems.append(f"keep must name the budgets of the rows {', '.join(wanting)}, as [0.9, 0.8]")
        if self.keep and not wanting:
            problems.append("keep is set, but no row has a size to fit")
        try:
            for keep in self.keep:
                Budget(keep=keep)
            _ = [protocol.calibration for protocol in self._protocols()]
        except (UserInputError, ValueError) as error:
            problems.append(str(error))
        problems += [problem for source in (self.data, *self.texts) for problem in unknown_source(source)]
        simulated = [name for name, row in self.rows.items() if row.slicegpt is not None]
        if self.recovery is not None and simulated:
            problems.append(f"recovery: {', '.join(simulated)} is simulated at full width and cannot be trained")
        if self.evaluation_tokens < self.seqlen:
            problems.append(f"evaluation_tokens={self.evaluation_tokens} is less than one window of {self.seqlen}")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def cases(self) -> Iterator[Case]:
        """Yield every line of the results, model by model, the dense one before the rows that are compared with it."""
        for protocol in self._protocols():
            yield Case(DENSE, None, None, protocol)
            for keep in self.keep:
                yield from (Case(n, row, keep, protocol) for n, row in self.rows.items() if row.needs_budget)
            yield from (Case(n, row, None, protocol) for n, row in self.rows.items() if not row.needs_budget)

    def _protocols(self) -> Iterator[Protocol]:
        shared = {name: getattr(self, name) for name in Measuring.model_fields}
        for model in self.models:
            for seed in self.seeds:
                yield Protocol(model=model, seed=seed, **shared | {"recovery": self._recovery(seed)})

    def _recovery(self, seed: int) -> dict[str, Any] | None:
        """Return the settings of the recovery, on the data of the grid."""
        if self.recovery is None:
            return None
        given = {"train": self.data, "seqlen": self.seqlen, "seed": seed}
        twice = sorted(given.keys() & self.recovery.keys())
        if twice:
            raise UserInputError(f"recovery: {', '.join(twice)} is the same for all that is done, and set for the grid")
        if self.recovery.get("base_bits"):
            raise UserInputError("recovery: base_bits is for checkpoints; the rows of a grid are tuned in memory")
        return parse_recovery(self.recovery | given).stated()


def load_grid(path: Path, changes: dict[str, Any] | None = None) -> Grid:
    """Load the grid of a YAML file, with some of its keys replaced; every mistake is reported at once."""
    data = read_yaml_file(path, "grid")
    if changes and isinstance(data, dict):
        data |= changes
    return validate(Grid, data, "grid")
