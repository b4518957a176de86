"""What works where the weights are not in memory or not on the device, and the least it takes, by the plan."""

from typing import Any

from transformers import LlamaConfig

from neuromeld import parse_recipe
from neuromeld.data.calibration import Calibration
from neuromeld.errors import UserInputError
from neuromeld.planning.limits import footprint_of_choice
from neuromeld.planning.plan import architecture_of, make_plan, meta_model
from result_tables.markdown import words

LLAMA_8B = LlamaConfig(
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    dtype="bfloat16",
)

STAGES: dict[str, dict[str, Any]] = {
    "`--num-kv-heads 4`": {"heads": {"num_kv_heads": 4}},
    "`--ffn-ratio 0.7`": {"ffn": {"ratio": 0.7}},
    "`--ffn-ratio 0.7 --ffn-merge transport`": {"ffn": {"ratio": 0.7, "merge": "transport"}},
    "`--ffn-ratio 0.7 --ffn-selector taylor`": {"ffn": {"ratio": 0.7, "selector": "taylor"}},
    "`--ffn-ratio 0.7 --ffn-selector learned`": {"ffn": {"ratio": 0.7, "selector": "learned"}},
    "`--drop-layers 4`": {"drop_layers": {"count": 4}},
    "`--remove-ffns 4`": {"remove_ffns": {"count": 4}},
    "`--hidden-size 3328`": {"width": {"hidden_size": 3328}},
    "`--hidden-size 3328 --hidden-refit`": {"width": {"hidden_size": 3328, "refit": True}},
    "`--hidden-size 3328 --hidden-selector learned`": {"width": {"hidden_size": 3328, "selector": "learned"}},
    "`--embedding-rank 1024`": {"embedding": {"rank": 1024}},
    "`--share-ffns 4`": {"share_ffns": {"count": 4}},
}


def limits() -> str:
    """The least `--max-memory` and `--device-memory` of each stage for a Llama of 8 billion parameters, or why not."""
    model = meta_model(LLAMA_8B)
    arch, settings = architecture_of(model), Calibration(tokens=262144)
    window = footprint_of_choice(model, settings, model.dtype).least_window
    rows = []
    for name, stages in STAGES.items():
        recipe = parse_recipe({**stages, "calibration": settings.model_dump()})
        peak = make_plan(model, recipe, arch=arch).peak_bytes
        try:
            planned = make_plan(model, recipe, arch=arch, max_memory=peak - 1, device_memory=1 << 50)
        except UserInputError as error:
            why = str(error).partition("on the disk: ")[2].partition(". Leave")[0]
            rows.append((name, _size(peak), f"refused: {why}", "refused"))
            continue
        assert planned.on_device is not None
        least = planned.on_device.peak_bytes - planned.on_device.window_bytes + window
        rows.append((name, _size(peak), _size(planned.peak_bytes), _size(least)))
    return words(("", "with all weights in memory", "least `--max-memory`", "least `--device-memory`"), rows)


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
