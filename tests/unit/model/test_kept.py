"""Attention runs once on each batch while the FFN behind it changes, and again where it has changed itself."""

import pytest
import torch

from contract.families import build, tokens
from neuromeld.archs.spec import Space
from neuromeld.model.layerwise import walk_layers
from neuromeld.model.surgery import read_matrix, write_matrix
from neuromeld.planning.plan import architecture_of

FAMILIES = ["llama", "gemma2", "olmo2", "gpt_neox", "falcon", "bloom", "opt", "gpt2", "t5", "bert", "vit", "mixtral"]


def batches(model):
    if "pixel_values" in model.dummy_inputs or model.main_input_name == "pixel_values":
        size = model.config.image_size
        return [{"pixel_values": torch.randn(2, 3, size, size, dtype=model.dtype)} for _ in range(2)]
    data = [{"input_ids": ids} for ids in tokens(8).split(4)]
    return [b | {"decoder_input_ids": b["input_ids"]} for b in data] if model.config.is_encoder_decoder else data


def halve(model, weight):
    write_matrix(model, weight, read_matrix(model, weight) / 2)


def streams(model, arch, *, forget: bool, also: str = Space.FFN):
    """What reads each FFN's output, and the last stream, where each FFN is halved on the way."""
    seen = []
    for inputs in walk_layers(model, arch, batches(model)):
        consumer = arch.consumer(inputs.index, Space.FFN)
        for space in (Space.FFN, also, Space.FFN):
            for b in range(2):
                if forget:
                    inputs.attention.drop(b)
                seen += inputs.called(b, model.get_submodule(consumer.path))
            halve(model, arch.consumer(inputs.index, space))
        if forget:
            for b in range(2):
                inputs.attention.drop(b)
    return [*seen, *inputs.calls.hidden]


@pytest.mark.parametrize("also", [Space.FFN, Space.HEADS])
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_changes_but_the_time(family, also):
    found, expected = [], []
    for forget, seen in ((False, found), (True, expected)):
        torch.manual_seed(0)
        model = build(family)
        seen += streams(model, architecture_of(model), forget=forget, also=also)
    assert len(found) == len(expected) > 0
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_attention_runs_once_on_each_batch():
    model, ran = build("llama"), []
    arch = architecture_of(model)
    data = batches(model)
    for layer in range(arch.num_layers):
        path = arch.consumer(layer, Space.HEADS).path
        model.get_submodule(path).register_forward_hook(lambda *_, layer=layer: ran.append(layer))
    for inputs in walk_layers(model, arch, data):
        ran.clear()  # the first layer ran to see what layers return
        heads, ffn = (model.get_submodule(arch.consumer(inputs.index, s).path) for s in (Space.HEADS, Space.FFN))
        for b in range(len(data)):
            inputs.called(b, ffn)
            inputs.called(b, ffn)
        assert ran == [inputs.index] * len(data)
        assert inputs.called(0, heads)[0].shape[1] == arch.widths[Space.HEADS]
        ran.clear()
    assert ran == []
