"""Whether a result that is planned will be loaded by the engines that people serve with."""

from typing import Annotated, Any

from pydantic import AfterValidator

from neuromeld.archs.sizes import Sizes
from neuromeld.checkpoint.export.engines import ENGINES, Engine
from neuromeld.checkpoint.export.shape import NARROW_TABLE, Shape
from neuromeld.registry import Registry

FORMATS = ("auto", "stock", "native")

BY_NAME: Registry[Engine | None] = Registry(
    "output format or engine", {**dict.fromkeys(FORMATS), **{engine.name.lower(): engine for engine in ENGINES}}
)

SERVED = "vllm,llama.cpp"
"""The engines that the default of a budget is for."""


def check_output(output: str) -> str:
    """Return an output format, or the engines that must load the result, in small letters; `ValueError` for others."""
    names = [name.strip().lower() for name in output.split(",")]
    for name in names:
        _ = BY_NAME[name]
    if len(names) > 1 and any(name in FORMATS for name in names):
        raise ValueError(f"output={output}: one of {', '.join(FORMATS)} alone, or engines with commas between")
    return ",".join(names)


OutputFormat = Annotated[str, AfterValidator(check_output)]
"""One of `FORMATS`, or engines with commas between that must load the result, by an export where need be."""


def unserved(
    output: str, model_type: str, config: Any, before: Sizes, after: Sizes, *, native: bool
) -> dict[str, list[str]]:
    """Return why engines of `output` would not load a result of the sizes `after`; none where all do, or none is asked.

    config   of the model as it comes, whose sizes are `before`
    """
    own_code = ["several bases of the residual stream"] if len(after.basis_starts) > 1 else []
    own_code += ["a residual stream that no stock config describes"] if native and after.hidden != before.hidden else []
    own_code += [NARROW_TABLE] if native and after.embedding_rank else []
    heads = getattr(config, "num_attention_heads", 0)
    shape = Shape(
        model_type=model_type,
        native=native,
        hidden=after.hidden,
        ffn=after.ffn,
        num_heads=tuple(heads * count // before.num_kv_heads[0] for count in after.num_kv_heads),
        num_kv_heads=after.num_kv_heads,
        shared=after.shared_ffns > 1,
        own_code=tuple(own_code),
    )
    engines = [engine for name in output.split(",") if (engine := BY_NAME[name]) is not None]
    asked = [engine.verdict(shape, config) for engine in engines]
    return {verdict.engine: list(verdict.reasons) for verdict in asked if verdict.how is None}
