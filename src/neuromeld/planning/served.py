"""Whether a result that is planned will be loaded by the engines that people serve with."""

from typing import Any

from neuromeld.archs.sizes import Sizes
from neuromeld.checkpoint.export.engines import ENGINES
from neuromeld.checkpoint.export.shape import Shape

SERVED = ("vLLM", "llama.cpp")
"""The engines that both load what is called served."""


def unserved(model_type: str, config: Any, before: Sizes, after: Sizes, *, native: bool) -> list[str]:
    """Return why one of `SERVED` would not load a result of the sizes `after`; none where both do.

    config   of the model as it comes, whose sizes are `before`
    """
    own_code = ["several bases of the residual stream"] if len(after.basis_starts) > 1 else []
    own_code += ["a residual stream that no stock config describes"] if native and after.hidden != before.hidden else []
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
    asked = [engine.verdict(shape, config) for engine in ENGINES if engine.name in SERVED]
    return [f"{verdict.engine}: {reason}" for verdict in asked for reason in verdict.reasons]
