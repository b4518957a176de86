"""Weights come to a device while they are used, within what may be there, and go home as they were."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from neuromeld.archs.spec import Weight
from neuromeld.model.surgery import add_linear, read_matrix, write_matrix
from neuromeld.runtime.streaming import DeviceWindow, is_streaming, says_its_device, streaming

SIZE = 16 * 16 * 4


def model(layers: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(16, 16, bias=False) for _ in range(layers)))


def window(num: int) -> DeviceWindow:
    return DeviceWindow(torch.device("cpu"), num * SIZE)


def homes(module: nn.Module) -> list[int]:
    return [parameter.data_ptr() for parameter in module.parameters()]


@pytest.mark.parametrize("num", [1, 2, 4])
def test_no_more_is_there_than_may_be_and_the_result_is_the_same(num):
    net, x = model(), torch.randn(3, 16)
    expected, at_home, seen = net(x), homes(net), window(num)
    with streaming(seen):
        assert torch.equal(net(x), expected)
        away = [now != before for now, before in zip(homes(net), at_home, strict=True)]
        assert away == [i >= 4 - num for i in range(4)]  # what was used last
    assert seen.peak_bytes == num * SIZE
    assert homes(net) == at_home
    assert not is_streaming()


def test_what_was_used_last_stays():
    net, x = model(3), torch.randn(3, 16)
    at_home = homes(net)
    with streaming(window(2)):
        for i in (0, 1, 0, 2):
            net[i](x)
        assert [now != before for now, before in zip(homes(net), at_home, strict=True)] == [True, False, True]


def test_tied_weights_come_and_go_together():
    net, x = model(3), torch.randn(3, 16)
    net[2].weight = net[0].weight
    expected, seen = net(x), window(1)
    with streaming(seen):
        assert torch.equal(net(x), expected)
        assert net[2].weight is net[0].weight
    assert seen.peak_bytes == SIZE


def test_what_is_replaced_or_added_has_a_home_in_memory():
    net, x, seen = model(2), torch.randn(3, 16), window(1)
    with streaming(seen):
        net(x)
        matrix = read_matrix(net, Weight("1", out="", in_=""))
        write_matrix(net, Weight("1", out="", in_=""), 2 * matrix)
        add_linear(net, "2", torch.eye(16), like=net[0].weight)
        doubled = net(x)
    assert seen.peak_bytes == SIZE
    torch.testing.assert_close(doubled, 2 * nn.functional.linear(net[0](x), matrix.T))


def test_copies_go_when_something_fails():
    net = model(2)
    at_home = homes(net)
    with pytest.raises(RuntimeError), streaming(window(2)):
        net(torch.randn(3, 5))
    assert homes(net) == at_home
    assert not is_streaming()


def test_a_streamed_model_of_transformers_says_where_it_computes():
    net = LlamaForCausalLM(
        LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=8)
    )
    with streaming(DeviceWindow(torch.device("meta"), SIZE)), says_its_device(net):
        assert net.device.type == "meta"
    with says_its_device(net):
        assert net.device.type == "cpu"
    assert net.device.type == "cpu"
