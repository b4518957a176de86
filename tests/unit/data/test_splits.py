import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuromeld.data.splits import Document, select_split, split_of
from neuromeld.errors import UserInputError

SPLITS = ("calibration", "validation", "evaluation")
DOCUMENTS = [Document(f"name {i}", f"text {i}") for i in range(2000)]


def test_every_document_falls_to_exactly_one_split():
    parts = [select_split(DOCUMENTS, split, source="test") for split in SPLITS]
    assert sum(map(len, parts)) == len(DOCUMENTS)
    assert set().union(*parts) == set(DOCUMENTS)


def test_the_shares_are_60_10_and_30_percent():
    shares = [len(select_split(DOCUMENTS, split, source="test")) / len(DOCUMENTS) for split in SPLITS]
    assert shares == pytest.approx([0.6, 0.1, 0.3], abs=0.04)  # four standard deviations


@given(st.sets(st.integers(0, 1999), min_size=1), st.randoms())
def test_a_split_depends_on_the_document_alone(kept, random):
    subset = [DOCUMENTS[i] for i in kept]
    random.shuffle(subset)
    for split in {split_of(document) for document in subset}:
        expected = set(select_split(DOCUMENTS, split, source="test")) & set(subset)
        assert set(select_split(subset, split, source="test")) == expected


def test_the_assignment_never_changes_between_releases():
    assert "".join(split_of(document)[0] for document in DOCUMENTS[:12]) == "cecevccvccee"


def test_order_is_kept():
    selected = select_split(DOCUMENTS, "evaluation", source="test")
    assert selected == sorted(selected, key=DOCUMENTS.index)


def test_an_empty_split_is_refused_with_the_counts():
    assert split_of(DOCUMENTS[0]) == "calibration"
    message = r"mine has 1 documents and none of them falls to the evaluation split.*30 or more"
    with pytest.raises(UserInputError, match=message):
        select_split(DOCUMENTS[:1], "evaluation", source="mine")
