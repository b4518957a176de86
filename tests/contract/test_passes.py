"""Forward passes in bfloat16 are what autocast makes of the model, and touch nothing else."""

import pytest
import torch
from torch.nn import functional as F

from contract.families import batches_for, build, tokens
from contract.test_predictions import at_once, batch_of
from neuromeld import compress_model, make_plan, parse_recipe
from neuromeld.errors import UserInputError
from neuromeld.evaluation import mean_loss
from neuromeld.model import passes
from neuromeld.model.capture import capture_inputs, record_calls
from neuromeld.model.passes import chosen_passes, current_passes, passes_in
from neuromeld.model.predictions import measure_in_chunks, nll, predictions
from neuromeld.planning.plan import architecture_of
from neuromeld.planning.sensitivity import fisher_scores

KINDS = ["llama-tied", "gpt2", "qwen3_moe", "bert", "t5", "whisper", "vit"]
"""One of each way to multiply, to normalise and to predict."""


def float32(family):
    return build(family, dtype=torch.float32)


@pytest.mark.parametrize("family", [*KINDS, "gemma2", "opt", "falcon", "bart", "dinov2"])
def test_losses_are_those_of_autocast(family):
    model = float32(family)
    batch = batch_of(model)
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            logits, targets = at_once(model, batch)
        expected = F.cross_entropy(logits.float(), targets, reduction="none")
        with passes_in("bfloat16", model):
            found = measure_in_chunks(nll, predictions(model, batch))
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)
    assert not torch.equal(found, measure_in_chunks(nll, predictions(model, batch)))


@pytest.mark.parametrize("family", KINDS)
def test_a_layer_at_a_time_is_the_whole_model_and_its_stream_is_float32(family):
    model = float32(family)
    arch, batches = architecture_of(model), batches_for(model, 8)[:1]
    path = arch.consumer(1, "ffn").path
    seen = []
    with passes_in("bfloat16", model):
        capture_inputs(model, arch, [path], batches, lambda _, x: seen.append(x))
        calls = record_calls(model, arch, batches)
        first, second = (model.get_submodule(arch.layer_path(index)) for index in (0, 1))
        stream = calls.run(first, 0, 0, calls.hidden[0])
        read, *_ = calls.call_of(second, 1, 0, stream, model.get_submodule(path))
    assert stream.dtype == read.dtype == seen[0].dtype == torch.float32
    assert torch.equal(read.flatten(0, -2), seen[0])
    if "moe" not in family:
        assert torch.equal(read, read.bfloat16().float())  # it was computed in bfloat16


@pytest.mark.parametrize("family", KINDS)
def test_a_compression_in_bfloat16_is_near_that_in_float32(family):
    losses_of = []
    for format_ in ("own", "bfloat16"):
        model = float32(family)
        data = batches_for(model, 96)
        calibration = {"tokens": 1536, "seqlen": 16, "passes": format_}
        plan = make_plan(model, parse_recipe({"ffn": {"size": 24}, "calibration": calibration}))
        done = compress_model(model, plan, data)
        assert done.passes == format_
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        assert current_passes() == "own"
        losses_of.append(mean_loss(model, data))
    assert losses_of[0] != losses_of[1] == pytest.approx(losses_of[0], rel=0.02)


def test_sensitivities_in_bfloat16_are_near_those_in_float32():
    found = []
    model = float32("llama-tied")
    for format_ in ("own", "bfloat16"):
        with passes_in(format_, model):
            found.append(torch.cat(fisher_scores(model, architecture_of(model), [{"input_ids": tokens(4)}]).ffn))
    assert found[1].dtype == torch.float64
    assert not torch.equal(*found)
    assert (found[1] - found[0]).norm() < 0.1 * found[0].norm()


def test_small_models_and_machines_without_it_compute_in_their_own_format(monkeypatch):
    model = float32("llama")
    for able, least, expected in ((True, 1 << 24, "own"), (True, 1, "bfloat16"), (False, 1, "own")):
        monkeypatch.setattr(passes, "multiplies_bfloat16", lambda _, able=able: able)
        monkeypatch.setattr(passes, "LEAST_PARAMETERS", least)
        assert chosen_passes("auto", model) == expected
        assert chosen_passes("own", model) == "own"
        assert chosen_passes("bfloat16", model) == "bfloat16"
        assert chosen_passes("auto", model.half()) == chosen_passes("auto", model.bfloat16()) == "own"
        assert chosen_passes("bfloat16", model) == "own"  # it is there already
        model.float()
    with pytest.raises(UserInputError, match="weights in float32, and these are in float16"):
        chosen_passes("bfloat16", model.half())
