"""Whether a result that is planned will be loaded by the engines that people serve with, and the sizes they want."""

import math
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator

from neuromeld.archs.sizes import Sizes
from neuromeld.checkpoint.export.engines import ENGINES, Engine
from neuromeld.checkpoint.export.shape import NARROW_TABLE, Shape
from neuromeld.registry import Registry
from neuromeld.stages.base import Multiples
from neuromeld.stages.ffn.stage import FFN_MULTIPLE

FORMATS = ("auto", "stock", "native")

BY_NAME: Registry[Engine | None] = Registry(
    "output format or engine", {**dict.fromkeys(FORMATS), **{engine.name.lower(): engine for engine in ENGINES}}
)

SERVED = "vllm,llama.cpp"
"""The engines that the default of a budget is for."""


@dataclass(frozen=True)
class Wanted:
    """An engine that has to load a result.

    rows    weights of a row that go together in the type that it will be quantised to
    cards   that it shares every matrix among
    """

    engine: Engine
    rows: int = 1
    cards: int = 1

    @property
    def multiples(self) -> Multiples:
        """The multiples of widths that it wants; a card's share is what kernels like, too."""
        shared = FFN_MULTIPLE * self.cards if self.cards > 1 else 1
        return Multiples(math.lcm(self.rows, shared), math.lcm(self.rows, shared, self.engine.by_layer))

    def reasons(self, shape: Shape) -> list[str]:
        """Return why its cards cannot share a model of this shape: none where they can."""
        found = []
        query, key_value, ffn = (set(sizes) for sizes in (shape.num_heads, shape.num_kv_heads, shape.ffn))
        if any(count % self.cards for count in query):
            found.append(f"{self.cards} cards cannot share {', '.join(map(str, sorted(query)))} query heads")
        if any(count % self.cards and self.cards % count for count in key_value):
            found.append(f"{self.cards} cards cannot share {', '.join(map(str, sorted(key_value)))} key-value heads")
        if wrong := sorted(width for width in ffn if width % self.cards):
            found.append(f"{self.cards} cards cannot share FFNs of {', '.join(map(str, wrong))} neurons")
        return found


def wanted(output: str) -> list[Wanted]:
    """Return the engines of an output; none where it names a format.  `ValueError` for what an engine does not have."""
    found = []
    for name in output.split(","):
        word, _, how = name.partition(":")
        engine = BY_NAME[word]
        if engine is None and how:
            raise ValueError(f"output={name}: {word} is a format, and nothing stands behind it")
        if engine is None:
            continue
        if how.isdecimal() and int(how) > 0 and engine.splits:
            found.append(Wanted(engine, cards=int(how)))
        elif not how or how in engine.rows:
            found.append(Wanted(engine, rows=engine.rows.get(how) or min(engine.rows.values(), default=1)))
        else:
            takes = ", ".join(engine.rows) or "a number of cards"
            raise ValueError(f"output={name}: behind {word} there may be {takes}, and not {how}")
    return found


def multiples_of(output: str) -> Multiples:
    """Return the multiples that all engines of an output want widths to be."""
    all_of_them = [one.multiples for one in wanted(output)]
    return Multiples(math.lcm(*(one.alike for one in all_of_them)), math.lcm(*(one.by_layer for one in all_of_them)))


def check_output(output: str) -> str:
    """Return an output format, or the engines that must load the result, in small letters; `ValueError` for others."""
    names = [name.strip().lower() for name in output.split(",")]
    _ = wanted(",".join(names))
    if len(names) > 1 and any(name in FORMATS for name in names):
        raise ValueError(f"output={output}: one of {', '.join(FORMATS)} alone, or engines with commas between")
    return ",".join(names)


OutputFormat = Annotated[str, AfterValidator(check_output)]
"""One of `FORMATS`, or engines with commas between that must load the result, by an export where need be.

Behind an engine and a colon stands what it will be used with: a type of llama.cpp (`llama.cpp:q4_k_m`), or the number
of cards that share every matrix (`vllm:4`).
"""


def unserved(
    output: str, model_type: str, config: Any, before: Sizes, after: Sizes, *, native: bool
) -> dict[str, list[str]]:
    """Return why engines of `output` would not load a result of the sizes `after`; none where all do, or none is asked.

    config   of the model as it comes, whose sizes are `before`
    """
    shape = planned_shape(model_type, config, before, after, native=native)
    asked = [(one, one.engine.verdict(shape, config)) for one in wanted(output)]
    found = {verdict.engine: [*verdict.reasons, *one.reasons(shape)] for one, verdict in asked}
    return {engine: reasons for engine, reasons in found.items() if reasons}


def planned_shape(model_type: str, config: Any, before: Sizes, after: Sizes, *, native: bool) -> Shape:
    """Return what engines ask of a result of the sizes `after`.

    config   of the model as it comes, whose sizes are `before`
    """
    own_code = ["several bases of the residual stream"] if len(after.basis_starts) > 1 else []
    own_code += ["a residual stream that no stock config describes"] if native and after.hidden != before.hidden else []
    own_code += [NARROW_TABLE] if native and after.embedding_rank else []
    heads = getattr(config, "num_attention_heads", 0)
    heads = heads if isinstance(heads, int) else 0  # stages have numbers of their own
    return Shape(
        model_type=model_type,
        native=native,
        hidden=after.hidden,
        ffn=after.ffn,
        num_heads=tuple(heads * count // before.num_kv_heads[0] for count in after.num_kv_heads),
        num_kv_heads=after.num_kv_heads,
        shared=after.shared_ffns > 1,
        own_code=tuple(own_code),
    )
