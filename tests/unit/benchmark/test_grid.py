"""Grids: what they expand to, every mistake said at once, and the results found again by what they are."""

import json
import math
import re
from pathlib import Path

import pytest
import yaml

from neuromeld.benchmark import Line, Results, excess_loss, load_grid, recovered_loss
from neuromeld.errors import UserInputError

ROWS = {
    "narrow": {"recipe": {"ffn": {"size": 8}}},
    "fit": {"recipe": {"ffn": {"selector": "mean_abs_activation"}}, "fit": "ffn.size"},
    "planner": {"planner": "stock"},
}
GRID = {"models": ["one", "two"], "keep": [0.9, 0.8], "seeds": [0, 1], "rows": ROWS}
BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def grid(tmp_path):
    def load(**changes):
        path = tmp_path / "grid.yaml"
        path.write_text(yaml.safe_dump(GRID | changes))
        return load_grid(path)

    return load


def test_a_grid_is_the_product_of_what_it_lists(grid):
    cases = list(grid().cases())
    names = [(c.protocol.model, c.protocol.seed, c.name, c.keep) for c in cases]
    per_model = [("dense", None), ("fit", 0.9), ("planner", 0.9), ("fit", 0.8), ("planner", 0.8), ("narrow", None)]
    assert names == [(m, s, *row) for m in ("one", "two") for s in (0, 1) for row in per_model]
    assert {(c.protocol.calibration.seed, c.protocol.calibration.tokens) for c in cases} == {(0, 32768), (1, 32768)}


def test_a_row_may_have_a_calibration_of_its_own(grid):
    rows = {"a": ROWS["narrow"], "b": ROWS["narrow"] | {"calibration": "self:1,news-sample:2"}}
    cases = grid(rows=rows, keep=[]).cases()
    sources = {case.name: case.calibration.source for case in cases}
    assert sources == {"dense": "wikipedia-sample", "a": "wikipedia-sample", "b": "self:1,news-sample:2"}


MISTAKES = {
    "the row 'a; b' could not be asked for": {"rows": {"a; b": ROWS["narrow"]}},
    "models must not be empty; the row 'dense'": {"models": [], "rows": ROWS | {"dense": ROWS["narrow"]}},
    "keep must name the budgets of the rows fit, planner": {"keep": []},
    "no row has a size to fit": {"rows": {"narrow": ROWS["narrow"]}},
    "keep=1.2 is outside": {"keep": [1.2]},
    "unknown source of data": {"data": "wikipedia"},
    "unknown source of data (or file:PATH) 'bible'": {"texts": ["bible"]},
    "rows.a: self:x: 'x' is no weight": {"rows": {"a": {"recipe": {}, "calibration": "self:x"}}},
    "evaluation_tokens=100 is less than one window of 512": {"evaluation_tokens": 100},
    "rows.a: give one of recipe, planner and slicegpt": {"rows": {"a": {}}},
    "rows.a: fit is for the open size": {"rows": {"a": {"planner": "auto", "fit": "ffn.size"}}},
    "rows.a: unknown free size 'ffn.sze'. Did you mean 'ffn.size'": {"rows": {"a": {"recipe": {}, "fit": "ffn.sze"}}},
    "rows.a: effort is for the planner": {"rows": {"a": {"recipe": {}, "effort": "quick"}}},
    "rows.a: unknown effort 'quik'. Did you mean 'quick'": {"rows": {"a": {"planner": "auto", "effort": "quik"}}},
    "rows.a: recipe.calibration: the data is the same": {"rows": {"a": {"recipe": {"calibration": {}}}}},
    "give one of ratio and size": {"rows": {"a": {"recipe": {"ffn": {"ratio": 0.5}}, "fit": "ffn.size"}}},
    "unknown selector 'best'": {"rows": {"a": {"recipe": {"ffn": {"size": 8, "selector": "best"}}}}},
    "unknown grid key 'rows.a.reciep'. Did you mean 'recipe'": {"rows": {"a": {"reciep": {}}}},
    "recovery: seed, seqlen is the same for all": {"recovery": {"steps": 5, "seed": 1, "seqlen": 64}},
    "recovery: base_bits is for checkpoints": {"recovery": {"steps": 5, "lora_rank": 4, "base_bits": 4}},
    "learning_rate=-1.0 must be positive": {"recovery": {"steps": 5, "learning_rate": -1.0}},
    "recovery: slice is simulated": {"recovery": {"steps": 5}, "rows": ROWS | {"slice": {"slicegpt": {}}}},
    "unknown grid key 'rows.planner.recip'. Did you mean 'recipe'": {"rows": {"planner": {"recip": {}}}},
    "unknown grid key 'model'. Did you mean 'models'": {"model": "one"},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_explained(message, grid):
    with pytest.raises(UserInputError, match="the grid cannot be used") as raised:
        grid(**MISTAKES[message])
    assert message in str(raised.value)


def test_grid_that_is_not_there(tmp_path):
    with pytest.raises(UserInputError, match=r"cannot read the grid .*none.yaml: No such file"):
        load_grid(tmp_path / "none.yaml")


def test_the_grid_of_the_documentation_is_valid(tmp_path):
    document = BENCHMARKS.parent / "docs" / "benchmarks.md"
    (example,) = re.findall(r"```yaml\n(.*?)```", document.read_text(), flags=re.DOTALL)
    (tmp_path / "grid.yaml").write_text(example)
    assert [case.name for case in load_grid(tmp_path / "grid.yaml").cases()].count("planner") == 2


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_grids_of_the_repository_are_valid(path):
    assert list(load_grid(path).cases())


MEASURED = [grid for grid in sorted(BENCHMARKS.glob("*.yaml")) if (BENCHMARKS / f"results/{grid.stem}.jsonl").exists()]


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.stem)
def test_the_results_of_the_repository_are_those_of_their_grids(path):
    """Every row can be compared, and stands in the grid under the name it has here."""
    results = Results(BENCHMARKS / f"results/{path.stem}.jsonl")
    rows = load_grid(path).rows
    for line in results.lines:
        assert line.row in ("dense", *rows)
        assert results.dense(line) is not None


def line_of(case, perplexity=20.0, **facts) -> Line:
    asked = None if case.row is None else case.row.model_dump(exclude_none=True, mode="json")
    given = {"row": case.name, "keep": case.keep, "asked": asked, "parameters": 80}
    given |= {"scores": {"perplexity": perplexity}}
    return Line(**case.protocol.model_dump(), **given | facts)


def test_a_line_is_found_again_by_row_budget_and_protocol(grid, tmp_path):
    cases = list(grid().cases())
    results = Results(tmp_path / "found.jsonl")
    for number, case in enumerate(cases):
        assert (results.find(case) is None) == (case.name != "dense" or case.protocol.seed == 0)
        results.add(line_of(case, perplexity=10.0 + number))
    again = Results(tmp_path / "found.jsonl")
    assert again.lines == results.lines
    for number, case in enumerate(cases):
        if case.row is not None:
            assert again.find(case).scores["perplexity"] == 10.0 + number
    for other in ({"calibration_tokens": 512}, {"split": "validation"}, {"data": "news-sample"}, {"seqlen": 256}):
        assert all(again.find(case) is None for case in grid(**other).cases() if case.row is not None)


def test_dense_is_measured_once_for_all_calibrations(grid, tmp_path):
    results = Results(tmp_path / "found.jsonl")
    results.add(line_of(next(iter(grid().cases())), perplexity=10.0, parameters=100))
    for case in grid(calibration_tokens=1024, seeds=[5]).cases():
        wanted = case.protocol.model == "one"
        assert (results.dense(line_of(case)) is not None) == wanted
    assert excess_loss(line_of(case), results.lines[0]) == pytest.approx(0.6931471805599453)
    assert results.find(next(iter(grid(seqlen=128).cases()))) is None


def test_recovery_is_part_of_the_protocol_and_draws_by_the_seed(grid, tmp_path):
    tuned = list(grid(recovery={"steps": 5}).cases())
    assert {case.protocol.recovery["seed"] for case in tuned} == {0, 1}
    assert {case.protocol.recovery["train"] for case in tuned} == {"wikipedia-sample"}
    results = Results(tmp_path / "found.jsonl")
    after = {"bf16": False, "tokens_seen": 1, "loss_curve": [], "seconds": 1.0}
    for case, first, then in ((tuned[0], 10.0, 8.0), (tuned[1], 20.0, 10.0)):
        results.add(line_of(case, perplexity=first, recovered=after | {"scores": {"perplexity": then}}))
    line, dense = Results(tmp_path / "found.jsonl").find(tuned[1]), results.find(tuned[0])
    assert recovered_loss(line, dense) == pytest.approx(math.log(10 / 8))
    assert recovered_loss(line_of(tuned[1]), dense) is None
    other_seed = next(c for c in tuned if c.protocol.seed == 1 and c.protocol.model == tuned[0].protocol.model)
    for other in (other_seed, *grid().cases(), *grid(recovery={"steps": 6}).cases()):
        assert results.find(other) is None
        assert results.dense(line_of(other)) is None


def test_a_row_that_means_something_else_now_is_measured_again(grid, tmp_path):
    results = Results(tmp_path / "found.jsonl")
    case = next(c for c in grid().cases() if c.name == "narrow")
    results.add(line_of(case))
    assert results.find(case) is not None
    changed = ROWS | {"narrow": {"recipe": {"ffn": {"size": 16}}}}
    assert results.find(next(c for c in grid(rows=changed).cases() if c.name == "narrow")) is None


def test_lines_from_before_texts_and_seeds_were_recorded_are_read(grid, tmp_path):
    old = {"row": "fit", "keep": 0.8, "model": "one", "split": "evaluation", "evaluation_tokens": 32768,
           "calibration_tokens": 32768, "seqlen": 512, "scores": {"perplexity": 42.0}, "parameters": 80}  # fmt: skip
    path = tmp_path / "old.jsonl"
    path.write_text(json.dumps(old) + "\n")
    cases = [c for c in grid().cases() if (c.name, c.keep) == ("fit", 0.8)]
    assert [Results(path).find(case) is not None for case in cases] == [True, False, False, False]


def test_a_line_that_is_cut_off_is_pointed_at(grid, tmp_path):
    path = tmp_path / "cut.jsonl"
    results = Results(path)
    results.add(line_of(next(iter(grid().cases()))))
    path.write_text(path.read_text() + '{"row": "na')
    with pytest.raises(UserInputError, match=r"cut.jsonl, line 2, is not a result"):
        Results(path)
