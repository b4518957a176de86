"""Several budgets from one run, and the smallest model that loses no more than it may."""

from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given

from contract.families import build
from neuromeld import Budget
from neuromeld.errors import UserInputError
from neuromeld.planning import Planner, Point, Sweep
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

    def point(self, keep):
        self.asked.append(keep)
        return None if keep < self.least else Point(keep, self.formula(keep), 0.1 * self.formula(keep))


def found(sweep: Known, max_loss: float, monkeypatch) -> float:
    monkeypatch.setattr("neuromeld.planning.several.replace", lambda choice, **_: choice)
    return sweep.smallest(max_loss)


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


def test_the_kind_of_candidate_that_should_lose_least_is_expected_by_its_prediction_or_by_what_is_taken_away():
    def candidate(name: str, predicted: float | None) -> Candidate:
        return Candidate(name, None, predicted)

    shared = Shared()
    shared.learn(
        Budget(keep=0.9), [(candidate("a", 0.1), 0.2), (candidate("b", 0.2), 0.3), (candidate("c", None), 0.1)]
    )
    at_half = [candidate("a", 0.6), candidate("b", 0.7), candidate("c", None), candidate("d", 0.1)]
    known = shared.led(at_half, Budget(keep=0.5))  # 1.2, 1.05 and 5 ** 1.5 * 0.1 = 1.118
    assert [one.name for one in known] == ["b", "c", "a"]
    shared.learn(Budget(keep=0.5), [(known[0], 2.0)])
    assert [one.name for one in shared.led(at_half, Budget(keep=0.5))] == ["c", "a", "b"]
    assert shared.led([candidate("d", 0.1)], Budget(keep=0.5)) == []


def test_the_first_of_several_budgets_is_the_choice_for_it_alone_and_later_ones_build_one_candidate():
    sweep = Sweep(planner(Budget(keep=0.9)))
    first, alone = sweep.at(0.9), planner(Budget(keep=0.9)).choose()
    assert first.record() == alone.record()
    later = sweep.at(0.8)
    assert later.chosen.kept_ratio <= 0.8
    assert all(c.first_loss is None for c in later.candidates)
    assert later.chosen.name in {c.name for c in first.candidates if c.excess_loss is not None}
    alone = planner(Budget(keep=0.8))
    alone.shared.learn(Budget(keep=0.9), [(Candidate(later.chosen.name, later.chosen.recipe, None), 0.1)])
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
    choice = Sweep(planner(Budget(max_loss=some.excess_loss))).smallest(some.excess_loss + some.error)
    assert choice.max_loss == some.excess_loss + some.error
    assert choice.chosen.excess_loss + choice.chosen.error <= choice.max_loss
    assert choice.chosen.kept_ratio <= 0.9
    tried = {point.keep: point.bound <= choice.max_loss for point in choice.tried}
    assert len(tried) > 1
    keep = float(choice.within.removeprefix("keep "))
    assert tried[keep]
    assert tried.get(round(keep - 0.01, 2), False) is False


@pytest.mark.parametrize("given", [{"keep": 0.5, "max_loss": 0.1}, {"flops": 0.5, "max_loss": 0.1}])
def test_a_loss_goes_with_no_other_budget(given):
    with pytest.raises(UserInputError, match=r"give one budget: --keep .* or --max-loss NATS"):
        Budget(**given)


@pytest.mark.parametrize("max_loss", [0, -0.1, float("inf"), float("nan")])
def test_a_loss_is_a_positive_number(max_loss):
    with pytest.raises(UserInputError, match="must be a positive number of nats"):
        Budget(max_loss=max_loss)


def test_a_point_is_bounded_by_its_standard_error():
    point = Point(0.8, 0.5, 0.1)
    assert point.bound == pytest.approx(0.6)
    assert replace(point, error=0.0).bound == 0.5
