"""`config.json` with values deleted, out of range, of other types, and with names of kernels and of code."""

import json

from fuzz.case import CHEAP, TEXT, Case, Scene, compression
from fuzz.damage import damage_json

NAMES = {
    "attn_implementation": ("flash_attention_2", "kernels-community/flash-attn2", "nonesuch", "eager"),
    "_attn_implementation": ("kernels-community/flash-attn2",),
    "experts_implementation": ("kernels-community/moe",),
    "auto_map": (
        {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"},
        {"AutoModelForCausalLM": "x/y--m.M"},
    ),
    "architectures": (["LlamaForSequenceClassification"], ["Nonesuch"], [], None, "LlamaForCausalLM", [1]),
    "model_type": ("nonesuch", "bert", "mamba", "llava", "t5", "", None, 1, "../x"),
    "dtype": ("int8", "float8_e4m3fn", "nonesuch", "float64", 1),
    "torch_dtype": ("int8", "nonesuch"),
    "hidden_act": ("nonesuch", "relu", None),
    "rope_parameters": (
        {"rope_type": "nonesuch"},
        {"rope_type": "yarn"},
        {"rope_type": "default", "rope_theta": -1},
        [],
    ),
    "rope_scaling": ({"type": "linear"}, {"rope_type": "llama3", "factor": "x"}, "linear"),
    "quantization_config": (
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "nonesuch"},
        {"load_in_4bit": True},
        3,
    ),
    "tie_word_embeddings": (False, "yes", None),
    "pad_token_id": (10**6, -1, "x", [0]),
    "layer_types": (["full_attention"], ["nonesuch"] * 3, "x"),
    "sliding_window": (-1, "x", 10**30),
    "head_dim": (0, -6, 7, "x", 10**9),
    "num_hidden_layers": (0, -1, 2.5, 10**9, "3"),
    "vocab_size": (0, -1, 63, 10**12),
    "hidden_size": (0, -1, 7, 10**12),
    "intermediate_size": (0, -1, 2.5, 10**12),
    "transformers_weights": ("nonesuch.safetensors", "../../x"),
}


def case(scene: Scene) -> Case:
    """A damaged config, planned for mostly."""
    draw = scene.draw
    folder = scene.take("model")
    path = folder / "config.json"
    if draw.random() < 0.5:
        damage_json(draw, path)
    else:
        config = json.loads(path.read_text())
        for name in draw.sample(sorted(NAMES), draw.choice((1, 1, 2))):
            config[name] = draw.choice(NAMES[name])
        path.write_text(json.dumps(config))
    if draw.random() < 0.2:
        damage_json(draw, folder / "generation_config.json")
    (folder / "code.py").write_text("raise RuntimeError('code of the checkpoint was run')\n")
    if draw.random() < 0.7:
        stage = draw.choice(
            (["--ffn-ratio", "0.7"], CHEAP[:4], ["--hidden-ratio", "0.8", "--native"], ["--share-ffns", "2"])
        )
        return Case(["plan", "model", *stage, *draw.choice(([], ["--json"]))])
    scene.take("words.jsonl")
    if draw.random() < 0.3:
        return Case(["similarity", "model", *TEXT, "--json"])
    return compression("model", *CHEAP, *TEXT)
