"""What a card computes is what the processor computes: every stage, the planner, recovery and evaluation on both.

Checkpoints are compared by what they predict: directions and factors of low rank have no sign.
`make gpu` runs them; without a card each is skipped by name.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from golden.cases import STAGES, make_inputs, names
from neuromeld import (
    Budget,
    EvaluationRequest,
    choose,
    compress,
    evaluate,
    parse_recipe,
    parse_recovery,
    plan,
    recover,
)
from neuromeld.checkpoint.source import locate
from neuromeld.data.calibration import Calibration

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no card: this would have compared it with the processor"),
]

LEARNED: dict[str, dict[str, Any]] = {
    "taylor": {"ffn": {"ratio": 0.6, "selector": "taylor"}, "heads": {"num_kv_heads": 1, "selector": "taylor"}},
    "learned": {"ffn": {"ratio": 0.6, "selector": "learned"}, "heads": {"num_kv_heads": 1, "selector": "learned"}},
    "learned-by-layer": {"ffn": {"ratio": 0.6, "selector": "learned", "by_layer": True}},
    "directions": {"width": {"hidden_size": 20, "selector": "learned"}},
    "absorbed": {"drop_layers": {"count": 2, "windows": 2}},
    "embedding": {"embedding": {"rank": 16}},
    "layers": {"width": {"hidden_size": 20, "basis": "layer", "refit": True}},
}
"""What the goldens have not: what learns from gradients, or is newer; on the tiny Llama."""

STREAMED: dict[str, dict[str, Any]] = {
    "merged": {"ffn": {"ratio": 0.6, "merge": "transport"}},
    "removed": {"remove_ffns": {"count": 1}, "output": "native"},
    "bases": {"width": {"hidden_size": 20, "basis": "run:2"}, "output": "native"},
    "absorbed": LEARNED["absorbed"],
    "embedding": LEARNED["embedding"],
    "several": {"heads": {"num_kv_heads": 1}, "ffn": {"ratio": 0.6}, "width": {"hidden_size": 20}},
}

CASES = [(family, case, STAGES[case]) for family, case in names()] + [("llama", *one) for one in LEARNED.items()]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    make_inputs(folder)
    return folder


def _calibration(folder: Path) -> dict[str, Any]:
    return {"source": f"file:{folder / 'text.jsonl'}", "tokens": 2048, "seqlen": 32}


def _logits(folder: Path) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    model = locate(str(folder)).load(None, "cpu")
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=torch.randint(96, (4, 32), generator=draw)).logits
    return logits


def _on_both(make: Any) -> tuple[Any, Any]:
    return make("cpu"), make("cuda")


def _alike(cpu: torch.Tensor, cuda: torch.Tensor) -> None:
    assert (cpu - cuda).norm() < 1e-3 * cpu.norm()


@pytest.mark.parametrize(("family", "case", "stages"), CASES, ids=[f"{family}-{case}" for family, case, _ in CASES])
def test_stages_give_the_same_weights(
    inputs: Path,
    tmp_path: Path,
    family: str,
    case: str,  # noqa: ARG001
    stages: Mapping[str, Any],
) -> None:
    recipe = parse_recipe({**stages, "calibration": _calibration(inputs)})

    def make(device: str) -> torch.Tensor:
        compress(str(inputs / family), recipe, tmp_path / device, device=device)
        return _logits(tmp_path / device)

    _alike(*_on_both(make))


@pytest.mark.parametrize("case", STREAMED)
def test_weights_may_come_to_the_card_a_layer_at_a_time(inputs: Path, tmp_path: Path, case: str) -> None:
    recipe = parse_recipe({**STREAMED[case], "calibration": _calibration(inputs)})
    source, whole, by_layers = str(inputs / "llama"), tmp_path / "whole", tmp_path / "by_layers"
    in_files = plan(source, recipe).peak_bytes - 1
    enough = plan(source, recipe, max_memory=in_files, device_memory=1 << 40).on_device
    assert enough is not None
    least = enough.peak_bytes - enough.window_bytes // 2
    compress(source, recipe, whole, device="cuda")
    limits = {"max_memory": in_files, "device_memory": least}
    record = compress(source, recipe, by_layers, device="cuda", **limits).record
    assert record["device_memory"]["window_bytes"] < enough.window_bytes
    assert torch.equal(_logits(whole), _logits(by_layers))


def test_choice_is_the_same(inputs: Path) -> None:
    def make(device: str) -> dict[str, Any]:
        found = choose(
            str(inputs / "llama"), Budget(keep=0.7), Calibration(**_calibration(inputs)), device=device, effort="quick"
        )
        return found.recipe.model_dump(mode="json")

    cpu, cuda = _on_both(make)
    assert cpu == cuda


def test_recovery_ends_in_the_same_weights(inputs: Path, tmp_path: Path) -> None:
    recipe = parse_recipe({"ffn": {"ratio": 0.6}, "calibration": _calibration(inputs)})
    compress(str(inputs / "llama"), recipe, tmp_path / "small")
    text, original = f"file:{inputs / 'text.jsonl'}", str(inputs / "llama")
    lengths = {"steps": 4, "batch_tokens": 64, "seqlen": 32}
    recovery = parse_recovery({"train": text, "original": original, **lengths, "learning_rate": 1e-3, "bf16": False})

    def make(device: str) -> torch.Tensor:
        recover(str(tmp_path / "small"), recovery, tmp_path / device, device=device)
        return _logits(tmp_path / device)

    _alike(*_on_both(make))


def test_evaluation_is_the_same(inputs: Path) -> None:
    request = EvaluationRequest(text=f"file:{inputs / 'text.jsonl'}", tokens=1024, seqlen=32, passes="own")
    model = str(inputs / "llama")

    def make(device: str) -> float:
        return float(evaluate([model], request, device=device)[model]["perplexity"])

    cpu, cuda = _on_both(make)
    assert cuda == pytest.approx(cpu, rel=1e-5)


def test_statistics_and_steps_come_back_to_the_card(inputs: Path, tmp_path: Path) -> None:
    stages = {"ffn": {"ratio": 0.6, "selector": "learned"}, "width": {"hidden_size": 20}}
    recipe = parse_recipe({**stages, "calibration": _calibration(inputs)})
    for out in ("one", "other"):  # the second finds the statistics of the first in the cache
        compress(str(inputs / "llama"), recipe, tmp_path / out, device="cuda")
    _alike(*(_logits(tmp_path / out) for out in ("one", "other")))
