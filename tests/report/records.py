"""Records to make reports of: the least that `compress` writes, and one with every section."""

import copy
import math
from typing import Any

LAYERS = 30

LEAST: dict[str, Any] = {
    "source": "package:tiny_model",
    "source_kind": "package",
    "model_type": "llama",
    "format": "stock",
    "dtype": "float32",
    "parameters_before": 134515008,
    "parameters_after": 105089850,
    "kept_ratio": 0.78125,
    "hidden_size_before": 576,
    "hidden_size_after": 450,
    "sizes_before": {"hidden": 576, "ffn": [1536] * LAYERS, "num_kv_heads": [3] * LAYERS, "shared_ffns": 1},
    "sizes_after": {"hidden": 450, "ffn": [1536] * LAYERS, "num_kv_heads": [3] * LAYERS, "shared_ffns": 1},
    "changes": ["width of the residual stream: 576 -> 450"],
    "bytes_on_disk_before": 538090408,
    "bytes_on_disk": 420389752,
    "logit_difference": 0.0,
    "seconds": 104.7,
    "peak_rss_bytes": 1720942592,
    "recipe": {"width": {"hidden_ratio": 0.8, "selector": "principal", "merge": "none", "decoder": "pinv",
                         "basis": "shared", "refit": False}, "output": "auto"},
    "calibration": {"source": "wikipedia-sample", "split": "calibration", "sha256": "c7ab" * 16, "tokens": 32768},
    "runs": [{"first_layer": 0, "energy_kept": 0.9697, "transport": None}],
    "refits": {},
    "warnings": [],
    "versions": {"neuromeld": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
}  # fmt: skip


def wave(i: float, low: float, high: float) -> float:
    return low + (high - low) * (0.5 + 0.5 * math.sin(1.7 * i))


def sublayers(key: str, before: int, after: int) -> list[dict[str, Any]]:
    return [
        {
            "layer": i,
            f"{key}_before": before,
            f"{key}_after": after - (i % 3) * (before // 8),
            "error_before": wave(i, 0.2, 0.5),
            "error_after": wave(i, 0.1, 0.3),
            "ridge": 1e-4 if i % 4 else None,
            "condition": 10 ** wave(i, 3, 6) if i % 5 else None,
        }
        for i in range(LAYERS)
    ]


def everything() -> dict[str, Any]:
    """A record that fills every section, as a model of thirty layers might."""
    record = copy.deepcopy(LEAST)
    record["format"] = "native"
    record["engines"] = [
        {"engine": "vLLM", "tried": "0.32.0", "how": "after `neuromeld export --to vllm`", "reasons": []},
        {"engine": "MLX-LM", "tried": "not tried", "how": None, "reasons": ["it is of no family that it knows"]},
    ]
    record["recipe"]["width"] |= {
        "selector": "mean_abs_activation",
        "merge": "transport",
        "basis": "run:3",
        "refit": True,
    }
    record["runs"] = [
        {
            "first_layer": i,
            "energy_kept": wave(i, 0.9, 0.99),
            "transport": {"status": "converged", "iterations": 40 + i, "marginal_error": 10 ** -wave(i, 6, 9)},
        }
        for i in range(0, LAYERS, 3)
    ]
    merges = {
        "blocks": [[math.exp(-abs(i - j) / 2) for j in range(24)] for i in range(24)],
        "merged": [[3 * i, 5 * i, 0.9 - i / 20] for i in range(8)],
    }
    for run, run_entry in enumerate(record["runs"]):
        if run in (0, 5, 9):
            spectrum = [[rank, 1 - math.exp(-rank / (40 + run))] for rank in range(18, 577, 18)]
            run_entry |= {"spectrum": spectrum, "merges": merges}
    record["seconds_by_phase"] = {"reading model and text": 12.3, "narrowing attention and FFNs": 1234.5}
    record["passes_by_phase"] = {"reading model and text": 0.04, "narrowing attention and FFNs": 1.93}
    norms = [
        f"model.layers.{i}.{kind}" for i in range(LAYERS) for kind in ("input_layernorm", "post_attention_layernorm")
    ]
    record["refits"] = {
        path: {"error_before": wave(i, 0.1, 0.3), "error_after": wave(i, 0.05, 0.2), "ridge": 1e-4}
        for i, path in enumerate([*norms, "model.norm"])
    }
    record["warnings"] = ["4096 calibration tokens are few for a width of 459: the statistics will be noisy"]
    protocol = {"source": "wikipedia-sample", "split": "evaluation", "seqlen": 512, "windows": 64, "sha256": "ab" * 32,
                "dtype": "float32", "definition": "exp(total negative log-likelihood / predicted tokens)"}  # fmt: skip
    record["evaluation"] = [{"perplexity": 74.04, "perplexity_before": 22.45, "protocol": protocol}]
    retained = {"ratio": 0.956, "low": 0.92, "high": 0.99}
    record["tasks"] = {
        task: {
            "accuracy": 0.61,
            "accuracy_before": 0.64,
            "retained": retained,
            "protocol": {"metric": "acc", "questions": 99},
        }
        for task in ("arc_easy", "a task of our own with a long name")
    }
    record["retained_performance"] = retained
    record["ffn"] = sublayers("width", 1536, 1152)
    record["ffn"][0]["merges"] = merges
    record["heads"] = sublayers("num_kv_heads", 8, 6)
    record["sizes_before"] |= {"num_kv_heads": [8] * LAYERS}
    record["sizes_after"] |= {key: [entry[f"{unit}_after"] for entry in record[name]] for key, unit, name in (
        ("ffn", "width", "ffn"), ("num_kv_heads", "num_kv_heads", "heads"))}  # fmt: skip
    record["changes"] = [
        "key-value heads of each layer: 8 -> 4 to 6, 5 on average",
        "hidden neurons of each FFN: 1536 -> 768 to 1152, 960 on average",
        *record["changes"],
    ]
    record["candidates"] = [
        {
            "name": f"width 0.{9 - i}, feed-forward 0.{6 + i}" + ", and a name that is long" * i,
            "kept_ratio": 0.85 - i / 50,
            "predicted_loss": wave(i, 0.2, 0.9),
            "measured_loss": wave(i, 0.3, 0.8) if i < 3 else None,
            "chosen": i == 1,
        }
        for i in range(5)
    ]
    record["windows"] = [
        {"start": i, "end": i + length, "loss": wave(i, 0.1, 0.6) * length}
        for length in (2, 3, 4)
        for i in range(LAYERS - length)
    ]
    record["window"] = {"start": 17, "end": 20}
    record["window_refits"] = [{"error_before": 0.41, "error_after": 0.23, "ridge": 1e-4, "condition": 1e4}]
    record["dropped_windows"] = [{"start": i, "end": i + 1, "loss": wave(i, 3, 5)} for i in range(LAYERS - 1)]
    record["dropped"] = [24, 25]
    record["removed_ffns_windows"] = [{"start": i, "end": i, "loss": wave(i, 3, 4)} for i in range(LAYERS)]
    record["removed_ffns"] = [9]
    record["similarity"] = {
        name: [[math.exp(-abs(i - j) / scale) for j in range(LAYERS)] for i in range(LAYERS)]
        for name, scale in (("ffn", 6), ("attention", 12))
    }
    record["samples"] = [
        {"prompt": "The capital of France is", "before": " Paris, a city on the Seine.", "after": " Paris.\n" * 3},
        {"prompt": "def add(a, b):", "before": "\n    return a + b", "after": "\n    return " + "a" * 80},
    ]
    record["recovery"] = {
        "loss_curve": [{"step": step, "loss": 4 + 2 * math.exp(-step / 80)} for step in range(0, 400, 10)],
        "held_out": {"loss_before": 4.305, "loss_after": 3.612},
    }
    return record
