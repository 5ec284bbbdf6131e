"""The plain sums agree with trec_eval's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.eval.metrics import per_query
from rag.eval.rank_measures import rank_measures

NAMES = [f"d{number}" for number in range(15)]


@given(
    st.permutations(NAMES), st.integers(0, 15), st.dictionaries(st.sampled_from([*NAMES, "unseen"]), st.integers(0, 4), min_size=1)
)
def test_they_agree_with_pytrec_eval_to_four_digits(order: list[str], length: int, grades: dict[str, int]) -> None:
    if max(grades.values()) <= 0:
        with pytest.raises(ValueError, match="nothing is relevant"):
            rank_measures(order, grades)
        return
    expected = per_query({"q": order[:length]}, {"q": grades}, ["nDCG@10", "MRR@10", "recall@10"])
    found = rank_measures(order[:length], grades)
    assert found == {name: pytest.approx(values["q"], abs=5e-5) for name, values in expected.items()}


def test_a_name_that_stands_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        rank_measures(["a", "a"], {"a": 1})
