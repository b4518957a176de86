"""YAML of any kind: recipes, recovery recipes and grids."""

from typing import Any

import yaml

from fuzz.case import TEXT, Case, Scene
from fuzz.damage import TEXTS, damaged_bytes, damaged_values

RECIPE: dict[str, Any] = {
    "drop_layers": {"layers": [1]},
    "heads": {"num_kv_heads": 1, "selector": "wanda", "compensate": "ridge"},
    "ffn": {"ratio": 0.66, "selector": "wanda", "merge": "none", "compensate": "ridge"},
    "width": {"hidden_ratio": 0.8, "selector": "principal", "merge": "none", "decoder": "pinv", "basis": "shared"},
    "share_ffns": {"window": [0, 1], "anchor": "first", "align": "permute", "gain": "channel", "rank": 2},
    "calibration": {"source": "file:words.jsonl", "tokens": 256, "seqlen": 32, "seed": 0},
    "output": "native",
}
RECOVERY: dict[str, Any] = {
    "train": "file:words.jsonl",
    "steps": 1,
    "batch_tokens": 32,
    "accumulate": 1,
    "seqlen": 32,
    "learning_rate": 1e-4,
    "schedule": "linear",
    "warmup": 0,
    "clip": 1.0,
    "lora_rank": 2,
    "bf16": False,
}
GRID: dict[str, Any] = {
    "models": ["model"],
    "keep": [0.8],
    "seeds": [0],
    "text": "file:words.jsonl",
    "evaluation_tokens": 64,
    "calibration_tokens": 256,
    "seqlen": 32,
    "rows": {
        "ffn": {"fit": "ffn.size", "recipe": {"ffn": {"selector": "wanda"}}},
        "drop": {"recipe": {"drop_layers": {"layers": [1]}}},
        "slicegpt": {"slicegpt": {"hidden_size": 16}},
        "planner": {"planner": "stock"},
    },
    "recovery": {"steps": 1},
}
DOCUMENTS = (
    "",
    "null",
    "- 1\n- 2",
    "x",
    "a: &a [*a]",
    "ffn: {ratio: 0.7}\nffn: {ratio: 0.8}",
    "!!python/object/apply:os.system ['touch pwned']",
    "ffn:\n\tratio: 0.7",
    "--- a\n--- b",
    "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    "ffn: {ratio: 2020-01-01}",
    "? {a: b}\n: c",
    "1: 2\n2.5: x\nnull: y",
    "ffn: !!binary aGk=",
    "ffn: !!set {ratio}",
    "ffn: {ratio: .nan}",
    "ffn: {ratio: 2020-99-99}",
    "x: 0o99\ny: 1:99:99",
    "ffn: {size: !!int x}",
    "[" * 3000,
    "ffn: {size: " + "9" * 5000 + "}",
)


def case(scene: Scene) -> Case:
    """A recipe, a recovery recipe or a grid with mistakes in it."""
    draw = scene.draw
    scene.take("model")
    scene.take("words.jsonl")
    kind = draw.choice(("recipe", "recipe", "recipe", "recovery", "grid", "grid"))
    settings = {"recipe": RECIPE, "recovery": RECOVERY, "grid": GRID}[kind]
    if kind == "recipe":
        stages = [stage for stage in RECIPE if stage not in ("calibration", "output")]
        chosen = draw.sample(stages, draw.choice((1, 1, 2, 5)))
        settings = {key: value for key, value in RECIPE.items() if key in (*chosen, "calibration", "output")}
    elif kind == "grid" and draw.random() < 0.7:  # with it the simulated row is refused, which hides other mistakes
        settings = {key: value for key, value in GRID.items() if key != "recovery"}
    way = draw.random()
    if way < 0.6:
        content = yaml.safe_dump(damaged_values(draw, settings, draw.choice((1, 1, 2))), sort_keys=False).encode()
    elif way < 0.85:
        content = draw.choice(DOCUMENTS).encode()
    else:
        content = damaged_bytes(draw, yaml.safe_dump(settings).encode())
    path = scene.here / draw.choice(("settings.yaml", "settings.yaml", "settings.yml", "[red].yaml"))
    path.write_bytes(content)
    if draw.random() < 0.04:
        path.unlink()
        path.mkdir()
    if kind == "recovery":
        return Case(["recover", "model", "out", "--recipe", path.name, "--steps", "1"], writes=("out",))
    if kind == "grid":
        change = ["--set", f"keep={draw.choice((*TEXTS, '[0.8]', '&a [*a]'))}"] if draw.random() < 0.2 else []
        return Case(["benchmark", path.name, "--dry-run", *change, *draw.choice(([], ["--json"]))])
    if draw.random() < 0.6:
        return Case(["plan", "model", "--recipe", path.name])
    command = ["compress", "model", "out", "--recipe", path.name, *TEXT, "--no-evaluate"]
    return Case(command, writes=("out",), result=("out", "AutoModelForCausalLM"))
