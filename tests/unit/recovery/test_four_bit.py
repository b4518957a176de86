"""QLoRA: what the matrices are while updates are trained, and what becomes of them (`pip install '.[qlora]'`)."""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from contract.families import FAMILIES, build, tokens
from neuromeld.checkpoint import load_model
from neuromeld.checkpoint.source import locate
from neuromeld.errors import CheckpointError, NumericsError
from neuromeld.evaluation import unique_parameters
from neuromeld.recovery import recover
from neuromeld.recovery.four_bit import FourBit, matrix_bytes
from neuromeld.recovery.lora import ALPHA, low_rank_updates
from unit.recovery.test_recover import held_out, shapes, unchanged
from unit.recovery.test_resume import killed

bitsandbytes = pytest.importorskip("bitsandbytes", reason="pip install '.[qlora]'")

QLORA = {"lora_rank": 4, "base_bits": 4}
RANK = 3
BLOCK = 64
TABLES = 4 * (16 + 256)
"""Bytes of the values that 4 bits stand for, and the 8 bits of a scale, in float32."""
WIDEST = 0.16
"""Half of NF4's widest gap is 0.152 of a block's largest weight, and that is known to 8 bits."""
TOLERANCE = 1e-5
"""Of logits, in float32."""


@pytest.fixture
def source(request, tmp_path):
    """The folder of a tiny model of a family, or of a fixture."""
    if request.param not in FAMILIES:
        return request.getfixturevalue(request.param)
    build(request.param, dtype=torch.float32).save_pretrained(tmp_path)
    return tmp_path


def on_disk(folder):
    found = locate(str(folder))
    return FourBit(found, found.fingerprint(), torch.float32)


def load(folder):
    return load_model(folder, dtype=None, device="cpu")


def inputs(model):
    if model.main_input_name == "pixel_values":
        return {"pixel_values": torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))}
    more = {"decoder_input_ids": tokens(2, seed=2)} if model.config.is_encoder_decoder else {}
    return {"input_ids": tokens(2), **more}


def dequantised(linear):
    """The matrix (out, in) of 4 bits, by arithmetic that is not the library's."""
    data, state = linear.weight.data.flatten(), linear.weight.quant_state
    scales = state.state2.code[state.absmax.long()] * state.state2.absmax.repeat_interleave(256)[: len(state.absmax)]
    codes = torch.stack([data >> 4, data & 15], dim=1).view(-1, BLOCK)
    blocks = state.code[codes.long()] * (scales + state.offset)[:, None]
    return blocks.view(linear.out_features, -1)[:, : linear.in_features]


def as_stored(matrix_oi, module):
    """In the orientation of the module."""
    return matrix_oi if isinstance(module, nn.Linear) else matrix_oi.T


def sharing(model):
    """Names of the parameters that are one."""
    names = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return list(names.values())


@torch.no_grad()
@pytest.mark.parametrize("source", ["llama", "gpt2", "opt", "bloom", "phi3", "t5", "bart", "merged_vit"], indirect=True)
def test_updates_are_trained_on_4_bits_and_added_to_the_weights_on_disk(source):
    model, original, reference = (load(source) for _ in range(3))
    updates = {}
    with low_rank_updates(model, RANK, on_disk(source)) as tuned:
        for path, module in model.named_modules():
            if not isinstance(module, bitsandbytes.nn.Linear4bit):
                continue
            module.train()  # as while training: else bitsandbytes rounds to bfloat16 where the CPU has it
            path = path.removesuffix(".base_layer")
            exact, found_oi = original.get_submodule(path), dequantised(module)
            assert module.weight.dtype is torch.uint8
            pairs = zip(found_oi.split(BLOCK, 1), as_stored(exact.weight, exact).split(BLOCK, 1), strict=True)
            assert all(((found - it).abs().amax(1) <= WIDEST * it.abs().amax(1)).all() for found, it in pairs)
            reference.get_submodule(path).weight.copy_(as_stored(found_oi, exact))
            layer = model.get_submodule(path)
            layer.lora_B["default"].weight.normal_(std=0.05)
            update_oi = ALPHA * (layer.lora_B["default"].weight @ layer.lora_A["default"].weight)
            updates[path] = as_stored(update_oi, exact)
        with tuned.disable_adapter():
            in_4_bits = tuned(**inputs(model)).logits
    torch.testing.assert_close(in_4_bits, reference(**inputs(model)).logits, atol=TOLERANCE, rtol=TOLERANCE)
    assert len(updates) >= 4 * 4
    for path, update in updates.items():
        original.get_submodule(path).weight.add_(update)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, original.get_parameter(name)), name
    assert sharing(model) == sharing(original)
    assert [type(module) for module in model.modules()] == [type(module) for module in original.modules()]
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_matrices_take_half_a_byte_a_weight(tmp_path):
    """And for 64 of them a scale in 8 bits, for 256 scales another, and for each matrix an offset and two tables."""
    build("llama", dtype=torch.bfloat16).save_pretrained(tmp_path)
    model = load(tmp_path)
    sizes = [tuple(m.weight.shape) for path, m in model.named_modules() if "layers." in path and type(m) is nn.Linear]
    with low_rank_updates(model, RANK, on_disk(tmp_path)):
        found = matrix_bytes(model)
    blocks = [rows * math.ceil(columns / BLOCK) for rows, columns in sizes]
    expected = sum(num * BLOCK // 2 + num + 4 * math.ceil(num / 256) + 4 + TABLES for num in blocks)
    assert found == {"held": expected, "own_dtype": sum(2 * rows * columns for rows, columns in sizes)}


@pytest.mark.parametrize(("kind", "more"), [("stock", {}), ("native", {}), ("stock", {"bf16": True})])
def test_checkpoint_learns_and_keeps_its_format(kind, more, settings, tmp_path, request):
    source, out = request.getfixturevalue(kind), tmp_path / "out"
    result = recover(str(source), settings(**QLORA, **more), out)
    before, after = held_out(result)
    assert after < 0.95 * before
    assert shapes(out) == shapes(source)
    assert unique_parameters(load(out)) == result.record["parameters_after"]
    matrices = {name for name in shapes(source) if ".layers." in name and "norm" not in name}
    assert unchanged(source, out) == shapes(source).keys() - matrices
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    assert "rank 4 of matrices in 4 bits" in (out / "README.md").read_text()
    recovery = result.record["recovery"]
    weights = load_file(source / "model.safetensors")
    assert recovery["matrix_bytes"]["own_dtype"] == sum(weights[name].nbytes for name in matrices)
    assert recovery["versions"]["bitsandbytes"] == bitsandbytes.__version__


def test_merged_ffns_stay_one(merged_vit, digits, tmp_path):
    out = tmp_path / "out"
    before, after = held_out(recover(str(merged_vit), digits(**QLORA), out))
    assert after < before
    assert shapes(out) == shapes(merged_vit)
    assert sharing(load(out)) == sharing(load(merged_vit))


def test_half_precision_stays(stock, settings, tmp_path):
    half, out = tmp_path / "half", tmp_path / "out"
    shutil.copytree(stock, half)
    load_model(stock, dtype=torch.bfloat16, device="cpu").save_pretrained(half)
    before, after = held_out(recover(str(half), settings(**QLORA), out))
    assert after < 0.95 * before
    assert shapes(out) == shapes(half)


def test_killed_and_resumed_run_ends_like_an_undisturbed_one(native, settings, tmp_path):
    chosen = settings(steps=20, learning_rate=0.001, **QLORA)
    killed(native, chosen, tmp_path / "out")
    resumed, undisturbed = (recover(str(native), chosen, tmp_path / name).record for name in ("out", "undisturbed"))
    assert resumed["recovery"]["resumed_from"] == 2
    assert resumed["recovery"]["loss_curve"] == undisturbed["recovery"]["loss_curve"]
    assert unchanged(tmp_path / "out", tmp_path / "undisturbed") == shapes(native).keys()


def test_loss_that_is_not_finite_stops_with_advice(stock, settings, tmp_path):
    with pytest.raises(NumericsError, match=r"at step \d+ of 30.*Lower --learning-rate \(now 1e\+30\)") as error:
        recover(str(stock), settings(learning_rate=1e30, **QLORA), tmp_path / "out")
    assert "--lora" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_distillation_is_told_what_4_bits_cost(stock, settings, tmp_path):
    """A model that follows itself has nothing to learn (`test_recover`); in 4 bits it is another."""
    chosen = settings(steps=1, original=str(stock), distill_weight=1.0, **QLORA)
    curve = recover(str(stock), chosen, tmp_path / "out").record["recovery"]["loss_curve"]
    assert curve[0]["loss"] > 1e-5


def test_checkpoint_that_changed_meanwhile_is_refused(stock, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(stock, folder)
    base = on_disk(folder)
    assert sharing(base.unquantised()) == sharing(load(stock))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(CheckpointError, match=r"copy was changed.*put it back"):
        base.unquantised()
