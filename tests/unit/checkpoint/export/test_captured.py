"""What torch captures of a model computes the same: compiled, and in ONNX Runtime where that is installed."""

import pytest
import torch

from unit.checkpoint.export.models import ragged, shared
from unit.checkpoint.export.test_weights import IDS, logits

CLOSE = {"rtol": 1e-4, "atol": 1e-4}

KINDS = {
    "widths by layer": lambda: ragged("llama"),
    "shared FFNs": shared,
}


class Logits(torch.nn.Module):
    """Tokens to logits, and nothing beside them."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids):
        return self.model(input_ids=ids, use_cache=False).logits


@pytest.mark.parametrize("kind", KINDS)
def test_torch_captures_it_as_one_graph(kind):
    model = KINDS[kind]()
    torch._dynamo.reset()
    compiled = torch.compile(Logits(model), backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(IDS), logits(model), **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_onnx_runtime_computes_the_same_at_any_length(kind, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed: make engines")
    pytest.importorskip("onnxscript")
    model, path = KINDS[kind](), tmp_path / "model.onnx"
    lengths = ({1: torch.export.Dim("tokens", min=2, max=64)},)
    with torch.no_grad():
        torch.onnx.export(Logits(model), (IDS,), dynamo=True, dynamic_shapes=lengths, verbose=False).save(path)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for ids in (IDS, IDS[:, :17]):
        (found,) = session.run(None, {session.get_inputs()[0].name: ids.numpy()})
        with torch.no_grad():
            expected = model(input_ids=ids, use_cache=False).logits
        torch.testing.assert_close(torch.from_numpy(found), expected, **CLOSE)
