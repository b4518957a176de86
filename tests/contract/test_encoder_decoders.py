"""What holds where an encoder and a decoder are treated in step, beyond the laws of every family."""

import tempfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import MarianConfig, T5Config, WhisperConfig

from contract.families import FAMILIES, VOCABULARY, batches_for, build, randomise, tokens
from contract.kinds import ENCODER_DECODERS
from contract.test_contract import logits, narrow, stages
from contract.test_random_configs import back_from_disk
from neuromeld import compress_model, make_plan
from neuromeld.archs.classes import stock_class
from neuromeld.archs.sizes import predict_flops, sizes_of
from neuromeld.archs.spec import Space
from neuromeld.errors import UserInputError
from neuromeld.evaluation import flops_per_token
from neuromeld.model.native.classes import auto_class
from neuromeld.model.surgery import reversible
from neuromeld.planning.plan import architecture_of, meta_model
from neuromeld.stages.drop_layers import drop_layers
from unit.stages.models import copy_ff, quiet, shuffle

CONTEXT = 16


@pytest.mark.parametrize("family", ["marian", "t5-gated", "whisper"])
def test_permuted_copies_merge_without_loss_in_both_stacks(family):
    model, arch = quiet(family)
    for start in arch.stack_offsets:
        for layer in (start + 2, start + 3):
            copy_ff(model, arch, start + 1, layer, shuffle(arch.widths[Space.FFN], layer))
    before = logits(model)
    merged, plan = narrow(model, stages(share_ffns={"window": [1, 3]}))
    torch.testing.assert_close(logits(merged), before, rtol=0, atol=1e-6)
    assert plan.parameters_before - plan.parameters_after == 2 * 2 * ffn_parameters(merged, arch)


def ffn_parameters(model, arch) -> int:
    modules = [model.get_submodule(w.path) for w in (*arch.producers(1, Space.FFN), arch.consumer(1, Space.FFN))]
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


@pytest.mark.parametrize("family", ["t5", "t5-gated"])
def test_the_table_of_positions_outlives_the_layer_that_it_is_in(family):
    """Layer 0 of each stack is dropped; what computes the position bias for all layers is not lost with it."""
    model, skipping = build(family, dtype=torch.float32), build(family, dtype=torch.float32)
    before = logits(model)
    arch = architecture_of(skipping)
    for start in arch.stack_offsets:
        layer = skipping.get_submodule(arch.layer_path(start))
        layer.register_forward_hook(lambda _, args, out: (args[0], *out[1:]))
    with reversible(model):
        drop_layers(model, architecture_of(model), [0])
        torch.testing.assert_close(logits(model), logits(skipping))
    torch.testing.assert_close(logits(model), before, rtol=0, atol=0)
    model, plan = narrow(model, stages(drop_layers={"layers": [0]}))
    assert plan.format == "stock"
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        again = auto_class(type(model)).from_pretrained(folder)
    torch.testing.assert_close(logits(again), logits(skipping))


@pytest.mark.parametrize("family", ["marian", "t5"])
def test_padding_on_either_side_is_not_seen(family):
    results = []
    for filler in (5, 60):
        data = [padded(batch, filler) for batch in batches_for(build(family))]
        model, chosen = build(family), stages(ffn={"size": 24, "merge": "transport"}, share_ffns={"count": 2})
        results.append(logits(compress_model(model, make_plan(model, chosen), data).model))
    torch.testing.assert_close(*results, rtol=0, atol=1e-9)


def padded(batch, filler):
    """Three more tokens on the right of the source, and two more on the right of the target."""
    ids, target, labels = batch["input_ids"], batch["decoder_input_ids"], batch["labels"]
    source = torch.cat([ids, torch.full_like(ids[:, :3], filler)], dim=1)
    mask, target_mask = torch.ones_like(source), torch.ones_like(torch.cat([target, target[:, :2]], dim=1))
    mask[:, -3:], target_mask[:, -2:] = 0, 0
    return {
        "input_ids": source,
        "attention_mask": mask,
        "decoder_input_ids": torch.cat([target, torch.full_like(target[:, :2], filler)], dim=1),
        "decoder_attention_mask": target_mask,
        "labels": torch.cat([labels, torch.full_like(labels[:, :2], -100)], dim=1),
    }


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_flops_of_a_source_and_a_target_token_are_those_that_torch_counts(family):
    config = FAMILIES[family]()
    if family == "whisper":
        config.max_source_positions = CONTEXT
    model = stock_class(config)._from_config(config).eval()
    model.set_attn_implementation("eager")
    assert flops_per_token(model, context=CONTEXT) == predicted_flops(model)
    source = {"input_ids": tokens(1, length=CONTEXT)}
    convolutions = 0
    if family == "whisper":
        source = {"input_features": torch.zeros(1, 8, 2 * CONTEXT)}
        weights = [model.model.encoder.conv1.weight.numel() * 2, model.model.encoder.conv2.weight.numel()]
        convolutions = 2 * CONTEXT * sum(weights)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**source, decoder_input_ids=tokens(1, length=CONTEXT), use_cache=False)
    assert CONTEXT * flops_per_token(model, context=CONTEXT) == counter.get_total_flops() - convolutions


def predicted_flops(model) -> int:
    """What a plan predicts for a model as it is, at `CONTEXT` keys."""
    arch = architecture_of(model)
    sizes = sizes_of(arch, model.config)
    return predict_flops(arch, sizes, sizes, context=CONTEXT)


def test_windows_are_those_of_the_shorter_stack():
    model = meta_model(FAMILIES["bart"]())
    assert architecture_of(model).depths == (4, 5)
    with pytest.raises(UserInputError, match="model has 4 FFNs"):
        make_plan(model, stages(share_ffns={"count": 5}))
    with pytest.raises(UserInputError, match="model has 4 layers"):
        make_plan(model, stages(drop_layers={"layers": [4]}))


def test_of_stacks_with_ffns_of_different_widths_the_larger_one_is_narrowed():
    config = FAMILIES["marian"]()
    config.decoder_ffn_dim = 48
    model = meta_model(config)
    assert [stack.layers for stack in architecture_of(model).spec.stacks] == ["model.decoder.layers"]
    plan = make_plan(model, stages(ffn={"size": 16}))
    assert (plan.format, plan.after.ffn) == ("stock", (16,) * config.decoder_layers)


@st.composite
def configs(draw):
    heads, head_dim = draw(st.integers(1, 3)), draw(st.sampled_from([4, 6]))
    encoder, decoder = draw(st.integers(2, 4)), draw(st.integers(2, 4))
    shape = {
        "vocab_size": VOCABULARY,
        "d_model": heads * head_dim + 2 * draw(st.integers(0, 1)) * heads,
        "decoder_start_token_id": 0,
    }
    ffn = draw(st.integers(9, 33))
    if draw(st.booleans()):
        return T5Config(
            **shape,
            d_ff=ffn,
            d_kv=head_dim,
            num_heads=heads,
            num_layers=max(encoder, decoder),  # transformers sizes the cache of the decoder by the encoder
            num_decoder_layers=decoder,
            feed_forward_proj=draw(st.sampled_from(["relu", "gated-gelu"])),
            tie_word_embeddings=draw(st.booleans()),
        )
    shape |= {
        "encoder_layers": encoder,
        "decoder_layers": decoder,
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "encoder_ffn_dim": ffn,
        "decoder_ffn_dim": ffn,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 1,
    }
    if draw(st.booleans()):
        return MarianConfig(**shape, max_position_embeddings=64)
    return WhisperConfig(**shape, num_mel_bins=8, max_source_positions=20, max_target_positions=32)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(config=configs())
def test_every_stage_at_once_comes_back_from_disk(config):
    torch.manual_seed(0)
    model = randomise(stock_class(config)._from_config(config).eval())
    depth = min(architecture_of(model).depths)
    chosen = {"ffn": {"ratio": 0.7}, "share_ffns": {"count": 2}}
    if depth > 2:
        chosen |= {"drop_layers": {"count": depth - 2}}
    plan = make_plan(model, stages(**chosen))
    compressed = compress_model(model, plan, batches_for(model, 24)).model
    back_from_disk(compressed, plan)
