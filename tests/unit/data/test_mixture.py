"""Sources with weights: what parses, what is refused, how things are divided."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from neuromeld.data.calibration import Calibration
from neuromeld.data.mixture import Part, divided, parse_mixture
from neuromeld.data.sources import unknown_source
from neuromeld.errors import UserInputError
from neuromeld.settings import validate

PARSED = {
    "news-sample": [("news-sample", 1)],
    "wikipedia-sample:2,file:mine.jsonl:1.5,self": [("wikipedia-sample", 2), ("file:mine.jsonl", 1.5), ("self", 1)],
    "self, news-sample:0.5": [("self", 1), ("news-sample", 0.5)],
    "file:a,b.jsonl": [("file:a,b.jsonl", 1)],
    "file:a,b.jsonl:2,file:/c:d/e.txt": [("file:a,b.jsonl", 2), ("file:/c:d/e.txt", 1)],
    "file:~/x.txt": [("file:~/x.txt", 1)],
}


@pytest.mark.parametrize("text", PARSED)
def test_sources_and_weights_are_told_apart(text):
    assert parse_mixture(text) == [Part(source, weight) for source, weight in PARSED[text]]


@pytest.mark.parametrize(
    "text", ["self:x", "self:0", "self:-1", "self:inf", "self:nan", "self:", ":2", "news-sample:1e"]
)
def test_a_weight_that_is_no_positive_number_is_one_message(text):
    with pytest.raises(UserInputError, match=r"is no weight; give a positive number, as in wikipedia-sample:2"):
        parse_mixture(text)
    with pytest.raises(UserInputError, match="is no weight"):
        validate(Calibration, {"source": f"news-sample,{text}"})
    assert len(unknown_source(text)) == 1


def test_a_source_is_named_once_and_prompts_are_for_own_text():
    with pytest.raises(UserInputError, match="news-sample is named twice"):
        parse_mixture("news-sample:1,news-sample:2")
    with pytest.raises(
        UserInputError, match=r"prompts=p\.txt is for text that the model writes; set the source to self"
    ):
        validate(Calibration, {"source": "news-sample", "prompts": "p.txt"})
    assert validate(Calibration, {"source": "news-sample:1,self:3", "prompts": "p.txt"}).prompts == "p.txt"


def test_an_unknown_part_of_a_mixture_is_named():
    (problem,) = unknown_source("news-sample:2,wikipedia-sampl:1,self:1")
    assert "'wikipedia-sampl'. Did you mean 'wikipedia-sample'" in problem


@given(st.integers(0, 1000), st.lists(st.floats(0.01, 100), min_size=1, max_size=6))
def test_shares_add_up_and_are_off_by_less_than_one(total, weights):
    shares = divided(total, weights)
    assert sum(shares) == total
    assert all(abs(share - total * weight / sum(weights)) < 1 for share, weight in zip(shares, weights, strict=True))
