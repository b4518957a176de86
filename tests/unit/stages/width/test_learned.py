"""Directions of the stream that are learned."""

import pytest
import torch

from contract.families import build
from neuromeld import compress_model, make_plan, parse_recipe
from neuromeld.archs.spec import NormKind
from neuromeld.errors import UserInputError
from neuromeld.model.learning import Teacher, learn
from neuromeld.model.predictions import kl, predictions, sum_in_chunks
from neuromeld.planning.plan import architecture_of
from neuromeld.runtime.journal import NO_JOURNAL
from neuromeld.stages.width import WidthStage
from neuromeld.stages.width.learned import Directions
from neuromeld.stats.split import divided
from unit.stages.models import batches

CALIBRATION = {"tokens": 4096, "seqlen": 16}


def directions(family: str, k: int) -> Directions:
    model = build(family)
    arch = architecture_of(model)
    free = torch.randn(arch.width, k, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kind: NormKind = arch.spec.kind
    free = free - free.mean(0) if kind == "layer" else free
    return Directions(Teacher(model, model, arch), torch.linalg.qr(free).Q)


@pytest.mark.parametrize(("family", "output"), [("llama", "native"), ("llama-tied", "stock")])
def test_what_is_learned_from_is_what_the_narrow_model_loses(family, output):
    model, whole, data = build(family), build(family), batches(48)
    recipe = {"width": {"hidden_size": 18, "selector": "learned"}, "output": output, "calibration": CALIBRATION}
    with torch.no_grad():
        done = compress_model(model, make_plan(model, parse_recipe(recipe)), data)
    looks = done.record()["directions_learned"]
    tested = [look["held_out"] for look in looks if look["held_out"] is not None]
    held_out = [data[b] for b in list(divided(len(data))[1])[:2]]
    with torch.no_grad():
        nats = [sum_in_chunks(kl, predictions(model, batch), predictions(whole, batch)) for batch in held_out]
    count = sum(len(predictions(whole, batch)) for batch in held_out)
    assert float(sum(nats)) / count == pytest.approx(min(tested), rel=1e-5)
    titles = [section.title for section in WidthStage().sections(done.record()) if section]
    assert "The residual stream: what was learned" in titles


def test_the_gradient_is_that_of_the_loss():
    what, batch = directions("llama", 8), batches(8)[0]
    step = torch.randn(what.start.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    numbers = what.begin([])
    _, gradient = what.gradient(numbers, batch, 0.0)
    ahead, behind = (what.test(numbers + sign * 1e-4 * step, [batch]) for sign in (1, -1))
    assert (ahead - behind) / 2e-4 == pytest.approx(float((gradient * step).sum()), rel=5e-3)  # norms are in float32


def test_all_directions_lose_nothing():
    what = directions("llama", architecture_of(build("llama")).width)
    assert what.test(what.begin([]), batches(8)) == pytest.approx(0, abs=1e-9)


def test_learning_is_better_than_its_start():
    what = directions("opt", 12)
    _, looks = learn(what, what.teacher.model, batches(48), NO_JOURNAL)
    tested = [look.held_out for look in looks if look.held_out is not None]
    assert tested[-1] < tested[0]


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"basis": "layer"}, "learns one basis for all layers; basis=layer has several"),
        ({"merge": "transport"}, "selector=learned keeps none"),
        ({"refit": True}, "refit undoes that"),
    ],
)
def test_what_learned_directions_do_not_go_with(stage, message):
    with pytest.raises(UserInputError, match=message):
        parse_recipe({"width": {"hidden_size": 24, "selector": "learned"} | stage})
