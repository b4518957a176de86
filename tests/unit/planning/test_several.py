"""Several budgets from one run, and the smallest model that loses no more than it may."""

from dataclasses import replace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from contract.families import build
from neuromeld import Budget, compress_model, make_plan
from neuromeld.errors import UserInputError
from neuromeld.evaluation import top1_accuracy
from neuromeld.planning import Measured, Planner, Point, Sweep
from neuromeld.planning.allowed import AllowedLoss, allowed_loss
from neuromeld.planning.built import BuiltCandidate, accuracy_lost
from neuromeld.planning.candidates import Candidate
from neuromeld.planning.several import SHARES
from neuromeld.planning.shared import Shared
from unit.planning.test_planner import CALIBRATION, batches


def planner(budget: Budget) -> Planner:
    return Planner(build("llama-tied"), budget, CALIBRATION, "auto", batches(), batches(8, 5))


class Known(Sweep):
    """Loses what a formula says."""

    def __init__(self, scale: float, exponent: float, least: float = 0.0) -> None:
        super().__init__(planner=None, choices={})
        self.formula = lambda keep: scale * (1 - keep) ** exponent
        self.least = least
        self.asked: list[float] = []

    def at(self, keep):
        return keep

    def point(self, keep, unit):  # noqa: ARG002
        self.asked.append(keep)
        return None if keep < self.least else Point(keep, self.formula(keep), 0.1 * self.formula(keep))


def found(sweep: Known, max_loss: float, monkeypatch) -> float:
    monkeypatch.setattr("neuromeld.planning.several.replace", lambda choice, **_: choice)
    return sweep.smallest(AllowedLoss(max_loss))


@given(st.floats(0.5, 20), st.floats(0.8, 3), st.sampled_from([0.0, 0.45, 0.7]), st.floats(0.02, 5))
def test_the_smallest_share_that_loses_no_more_is_found_with_few_measurements(scale, exponent, least, max_loss):
    sweep = Known(scale, exponent, least)
    meeting = [keep for keep in SHARES if keep >= least and 1.1 * sweep.formula(keep) <= max_loss]
    with pytest.MonkeyPatch.context() as patch:
        if not meeting:
            with pytest.raises(UserInputError, match=r"the nearest keeps 0\.99 of the parameters and loses"):
                found(sweep, max_loss, patch)
        else:
            assert found(sweep, max_loss, patch) == min(meeting)
    assert len(sweep.asked) == len(set(sweep.asked)) <= 14


def lost(**losses: float) -> dict[str, BuiltCandidate]:
    return {name: BuiltCandidate(loss, (loss,), None) for name, loss in losses.items()}


def test_the_kind_of_candidate_that_should_lose_least_is_expected_by_its_prediction_or_by_what_is_taken_away():
    def candidate(name: str, predicted: float | None) -> Candidate:
        return Candidate(name, None, predicted)

    shared = Shared()
    at_first = [candidate("a", 0.1), candidate("b", 0.2), candidate("c", None)]
    shared.learn(Budget(keep=0.9), at_first, lost(a=0.2, b=0.3, c=0.1), {})
    at_half = [candidate("a", 0.6), candidate("b", 0.7), candidate("c", None), candidate("d", 0.1)]
    known = shared.led(at_half, Budget(keep=0.5))  # 1.2, 1.05 and 5 * 0.1
    assert [one.name for one in known] == ["c", "b", "a"]
    shared.learn(Budget(keep=0.5), known, lost(b=2.0), {})
    assert [one.name for one in shared.led(at_half, Budget(keep=0.5))] == ["c", "a", "b"]
    assert shared.led([candidate("d", 0.1)], Budget(keep=0.5)) == []


@pytest.mark.parametrize(("first", "second", "built"), [(1.0, 9.0, "a"), (3.0, 1.1, "ab"), (3.0, 9.0, "abc")])
def test_a_kind_that_should_clearly_lose_less_than_what_was_measured_is_built_too(first, second, built):
    predicted = {"a": 0.1, "b": 0.2, "c": 0.3}
    everything = [Candidate(name, None, value) for name, value in predicted.items()]
    shared, budget = Shared(), Budget(keep=0.5)
    shared.learn(Budget(keep=0.9), everything, lost(a=1.0, b=1.2, c=1.4), {})
    losses, measured = {"a": first, "b": second, "c": 1.4}, lost(a=first)
    for one in shared.better(everything, budget, measured):
        measured |= lost(**{one.name: losses[one.name]})
    assert "".join(measured) == built


def test_what_lost_more_from_few_tokens_may_lead_at_another_budget():
    def candidates(*predicted: float) -> list[Candidate]:
        return [Candidate(name, None, one) for name, one in zip("abc", predicted, strict=True)]

    shared = Shared()
    shared.learn(Budget(keep=0.8), candidates(0.3, 0.4, 0.5), lost(a=0.4, b=0.6), lost(a=0.8, b=1.2, c=1.4))
    assert shared.known["c"].loss == pytest.approx(0.7)  # half, as the others
    later = shared.led(candidates(0.1, 0.1, 0.05), Budget(keep=0.95))
    assert [one.name for one in later] == ["c", "a", "b"]


def test_the_first_of_several_budgets_is_the_choice_for_it_alone_and_later_ones_build_one_candidate():
    sweep = Sweep(planner(Budget(keep=0.9)))
    first, alone = sweep.at(0.9), planner(Budget(keep=0.9)).choose()
    assert first.record() == alone.record()
    later = sweep.at(0.8)
    assert later.chosen.kept_ratio <= 0.8
    assert all(c.first_loss is None for c in later.candidates)
    assert later.chosen.name in {c.name for c in first.candidates if c.first_loss is not None}
    alone = planner(Budget(keep=0.8))
    known = Candidate(later.chosen.name, later.chosen.recipe, None)
    alone.shared.learn(Budget(keep=0.9), [known], lost(**{known.name: 0.1}), {})
    assert later.chosen.excess_loss == alone.choose().chosen.excess_loss
    assert "measuring sensitivities" not in later.phases.seconds
    assert [c.excess_loss is not None for c in later.candidates].count(True) == 1
    assert sweep.at(0.8) is later


def test_texts_of_other_kinds_are_measured_by_every_budget_and_not_chosen_by():
    asked = planner(Budget(keep=0.9))
    sweep = Sweep(replace(asked, others={"same": asked.validation, "part": asked.validation[:1]}))
    assert sweep.at(0.9).record() == planner(Budget(keep=0.9)).choose().record()
    for keep in (0.9, 0.8):
        chosen = sweep.at(keep).chosen
        assert chosen.other_losses["same"] == pytest.approx(chosen.excess_loss)
        assert abs(chosen.other_losses["part"] - chosen.excess_loss) > 1e-4


def test_a_loss_that_is_allowed_is_kept_to_on_the_text_that_was_chosen_by():
    some = Sweep(planner(Budget(keep=0.9))).at(0.9).chosen
    allowed = some.excess_loss + some.error
    choice = Sweep(planner(Budget(max_loss=some.excess_loss))).smallest(AllowedLoss(allowed))
    assert choice.max_loss.amount == allowed
    assert choice.chosen.excess_loss + choice.chosen.error <= allowed
    assert choice.chosen.kept_ratio <= 0.9
    tried = {point.keep: point.bound <= allowed for point in choice.tried}
    assert len(tried) > 1
    keep = float(choice.within.removeprefix("keep "))
    assert tried[keep]
    assert tried.get(round(keep - 0.01, 2), False) is False


@pytest.mark.parametrize("given", [{"keep": 0.5, "max_loss": 0.1}, {"flops": 0.5, "max_loss": 0.1}])
def test_a_loss_goes_with_no_other_budget(given):
    with pytest.raises(UserInputError, match=r"give one budget: --keep .* or --max-loss NATS\|SHARE%"):
        Budget(**given)


@pytest.mark.parametrize(
    "max_loss", [0, -0.1, float("inf"), float("nan"), "0%", "100%", "-2%", "2%%", "%", "2 nats", ""]
)
def test_a_loss_is_a_positive_number_or_a_share_under_100_percent(max_loss):
    with pytest.raises(UserInputError, match=r"must be a positive number of nats .* under 100%, as 2%"):
        Budget(max_loss=max_loss)


@given(st.floats(1e-6, 99.0))
def test_a_loss_is_read_as_it_is_said(amount):
    assert allowed_loss(amount) == allowed_loss(str(amount)) == AllowedLoss(amount)
    share = AllowedLoss(amount / 100, "accuracy")
    assert allowed_loss(f"{amount}%") == allowed_loss(f" {amount} % ") == share
    assert allowed_loss(str(share).split()[0]).amount == pytest.approx(share.amount, rel=1e-5)


def test_accuracy_is_lost_in_shares_of_the_originals_with_the_error_of_the_difference():
    dense = [(30.0, 100), (40.0, 100), (50.0, 100)]
    found = accuracy_lost([(36.0, 100), (49.0, 100), (59.0, 100)], dense)
    assert found.amount == pytest.approx(1 - 0.52 / 0.6)
    assert found.error == pytest.approx(0.01 / 0.6)  # differences 0.06, 0.09 and 0.09
    assert accuracy_lost(dense, dense).amount == 0.0
    assert accuracy_lost(dense, [(100.0, 100)] * 3) is None


def test_the_smallest_model_by_accuracy_is_that_of_a_measured_candidate_and_loses_what_is_said():
    model, data = learnt()
    allowed = allowed_loss("20%")
    choice = Sweep(Planner(model, Budget(keep=0.9), CALIBRATION, "auto", data, data, accuracy=True)).smallest(allowed)
    lost = choice.chosen.accuracy
    assert 0 < lost.amount + lost.error <= allowed.amount
    tried = {point.keep: point for point in choice.tried}
    keep = float(choice.within.removeprefix("keep "))
    assert tried[keep].loss == lost.amount
    assert tried[round(keep - 0.01, 2)].bound > allowed.amount
    whole = top1_accuracy(model, data).accuracy
    smaller = compress_model(model, make_plan(model, choice.recipe), data, validation=data).model
    assert 1 - top1_accuracy(smaller, data).accuracy / whole == pytest.approx(lost.amount)


def learnt():
    """A tiny model that knows a short text by heart, and the text."""
    torch.manual_seed(0)
    model = build("llama-tied")
    data = batches()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    with torch.enable_grad():
        for _ in range(30):
            loss = sum(model(**batch, labels=batch["input_ids"]).loss for batch in data)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.requires_grad_(False), data


def test_a_model_without_accuracy_cannot_lose_a_share_of_it():
    measured = Measured("narrower", None, 0.9, 0.9, None, None, 0.1, 0.0, None)
    assert measured.lost("nats").amount == 0.1
    with pytest.raises(UserInputError, match="predicts no token of the validation text right"):
        measured.lost("accuracy")


def test_a_point_is_bounded_by_its_standard_error():
    point = Point(0.8, 0.5, 0.1)
    assert point.bound == pytest.approx(0.6)
    assert replace(point, error=0.0).bound == 0.5
