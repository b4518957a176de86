"""What is frozen: every stage on three families of tiny random models, each with what the plan and the record say."""

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from neuromeld import compress, parse_recipe

WORDS = [f"w{i}" for i in range(97)]
SIZES = {"num_hidden_layers": 4, "vocab_size": 97, "hidden_size": 24, "num_attention_heads": 4}

MODELS = {
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES, intermediate_size=40, num_key_value_heads=2, head_dim=6, tie_word_embeddings=True)
    ),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=97, n_embd=24, n_layer=4, n_head=4, n_positions=64)),
    "bert": lambda: BertForMaskedLM(BertConfig(**SIZES, intermediate_size=40, max_position_embeddings=64)),
}

STAGES: dict[str, dict[str, Any]] = {
    "drop": {"drop_layers": {"count": 1}},
    "delete": {"remove_ffns": {"count": 1}},
    "heads": {"heads": {"num_kv_heads": 1}},
    "ffn": {"ffn": {"ratio": 0.6}},
    "ffn-transport": {"ffn": {"size": [24, 16, 24, 32], "selector": "flap", "merge": "transport"}},
    "ffn-gradient": {"ffn": {"ratio": 0.6, "selector": "taylor", "compensate": "none"}},
    "width": {"width": {"hidden_size": 20}},
    "width-runs": {
        "width": {
            "hidden_size": 18,
            "selector": "mean_abs_activation",
            "merge": "transport",
            "basis": "run:2",
            "refit": True,
        }
    },
    "merge": {"share_ffns": {"count": 2, "gain": "channel", "rank": 3}},
    "all": {
        "drop_layers": {"layers": [1]},
        "heads": {"num_kv_heads": 1},
        "ffn": {"size": 24},
        "width": {"hidden_size": 20},
        "share_ffns": {"window": [0, 1]},
    },
}

REFUSED = {"llama": (), "gpt2": ("heads",), "bert": ("width",)}
"""Stages that a family does not have."""

VOLATILE = (
    "seconds",
    "seconds_by_phase",
    "passes_by_phase",
    "peak_rss_bytes",
    "versions",
    "source",
    "source_sha256",
    "samples",
)

FOLDER = Path(__file__).parent / "frozen"


def names() -> Iterator[tuple[str, str]]:
    """Family and case of everything that is frozen."""
    for family, refused in REFUSED.items():
        for case, stages in STAGES.items():
            if not set(stages) & set(refused):
                yield family, case


def make_inputs(folder: Path) -> None:
    """The models with their tokenizer, and a text."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="w1", mask_token="w2", pad_token="w3")
    for family, build in MODELS.items():
        torch.manual_seed(0)
        model = build()
        draw = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            parameter.data.add_(0.2 * torch.randn(parameter.shape, generator=draw))
        model.save_pretrained(folder / family)
        tokenizer.save_pretrained(folder / family)
    draw_words = random.Random(0)
    lines = [json.dumps({"text": " ".join(draw_words.choices(WORDS, k=300))}) for _ in range(60)]
    (folder / "text.jsonl").write_text("\n".join(lines))


def run(folder: Path, family: str, case: str, out: Path) -> dict[str, Any]:
    """What a case gives: its plan, its record, and of every tensor its shape and three sums."""
    calibration = {"source": f"file:{folder / 'text.jsonl'}", "tokens": 2048, "seqlen": 32}
    recipe = parse_recipe({**STAGES[case], "calibration": calibration})
    result = compress(str(folder / family), recipe, out)
    plan = json.loads(result.plan.to_json())
    record = {key: value for key, value in result.record.items() if key not in VOLATILE}
    for entry in (plan["recipe"], record["recipe"], record):
        entry["calibration"].pop("source")
    for measured in record.get("evaluation", []):
        measured["protocol"].pop("source")
    return {"plan": plan, "record": record, "tensors": tensors(out)}


def tensors(folder: Path) -> dict[str, Any]:
    """Shape, norm and a fixed projection of every tensor of a checkpoint."""
    found = {}
    for name, tensor in sorted(load_file(folder / "model.safetensors").items()):
        values = tensor.double().flatten()
        weights = torch.sin(torch.arange(len(values), dtype=torch.float64))
        found[name] = {"shape": list(tensor.shape), "norm": float(values.norm()), "projection": float(values @ weights)}
    return found


def differences(expected: Any, given: Any, tolerance: float, where: str = "") -> Iterator[str]:
    """Every place in which two nested values differ, numbers by more than `tolerance` of the larger, or of 1."""
    if isinstance(expected, dict) and isinstance(given, dict):
        for key in sorted(expected.keys() | given.keys()):
            if key not in expected or key not in given:
                yield f"{where}.{key} is only in what was {'frozen' if key in expected else 'given'}"
            else:
                yield from differences(expected[key], given[key], tolerance, f"{where}.{key}")
    elif isinstance(expected, list) and isinstance(given, list) and len(expected) == len(given):
        for index, pair in enumerate(zip(expected, given, strict=True)):
            yield from differences(*pair, tolerance, f"{where}[{index}]")
    elif isinstance(expected, float) and isinstance(given, float):
        if not math.isclose(expected, given, rel_tol=tolerance, abs_tol=tolerance):
            yield f"{where}: {expected} was frozen, {given} is given"
    elif expected != given:
        yield f"{where}: {expected!r} was frozen, {given!r} is given"
