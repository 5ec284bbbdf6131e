"""Measures: by hand, against ir-measures on runs with scores, and the ways a caller can be wrong."""

import math
import sys

import ir_measures
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import RR, R, nDCG

from rag.errors import MissingExtra
from rag.eval.metrics import MEASURES, measurable, per_query

QRELS = {
    "first": {"a": 1},
    "graded": {"a": 2, "b": 1, "c": 0, "d": 3},
    "none relevant": {"a": 0},
    "not searched": {"a": 1},
}
RANKINGS = {
    "first": ["a", "b", "c"],
    "graded": ["x", "b", "d"],
    "none relevant": ["a", "b"],
    "unjudged": ["a"],
}


def test_values_worked_out_by_hand() -> None:
    values = per_query(RANKINGS, QRELS)
    ideal = 3 / math.log2(2) + 2 / math.log2(3) + 1 / math.log2(4)
    assert values["nDCG@10"]["graded"] == pytest.approx((1 / math.log2(3) + 3 / math.log2(4)) / ideal, abs=1e-9)
    assert values["recall@10"]["graded"] == pytest.approx(2 / 3)
    assert values["MRR@10"]["graded"] == pytest.approx(1 / 2)
    assert all(values[measure]["first"] == 1.0 for measure in MEASURES)
    assert all(values[measure]["none relevant"] == values[measure]["not searched"] == 0.0 for measure in MEASURES)


def test_one_value_per_judged_query_in_their_order() -> None:
    for values in per_query(RANKINGS, QRELS).values():
        assert list(values) == list(QRELS)


def test_cut_offs_are_where_the_names_say() -> None:
    ranking = [f"d{place}" for place in range(1, 201)]
    for place, expected in (
        (10, (True, True, True)),
        (11, (False, False, True)),
        (100, (False, False, True)),
        (101, (False, False, False)),
    ):
        values = per_query({"q": ranking}, {"q": {f"d{place}": 1}})
        assert (values["nDCG@10"]["q"] > 0, values["recall@10"]["q"] > 0, values["recall@100"]["q"] > 0) == expected
        assert values["MRR@10"]["q"] == (1 / place if place <= 10 else 0.0)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.permutations([f"d{number}" for number in range(15)]), min_size=1, max_size=4),
    st.lists(
        st.dictionaries(st.sampled_from([f"d{number}" for number in range(20)]), st.integers(0, 3), min_size=1),
        min_size=4,
        max_size=4,
    ),
)
def test_equals_ir_measures_on_falling_scores(rankings: list[list[str]], judgements: list[dict[str, int]]) -> None:
    run = {f"q{number}": {name: 1 / (1 + place) for place, name in enumerate(ranking)} for number, ranking in enumerate(rankings)}
    qrels = {f"q{number}": judged for number, judged in enumerate(judgements[: len(rankings)])}
    names = {nDCG @ 10: "nDCG@10", R @ 10: "recall@10", R @ 100: "recall@100", RR @ 10: "MRR@10"}
    found = per_query({query: sorted(scores, key=lambda name: -scores[name]) for query, scores in run.items()}, qrels)
    for metric in ir_measures.iter_calc(list(names), qrels, run):
        assert found[names[metric.measure]][metric.query_id] == pytest.approx(metric.value, abs=1e-9)


def test_the_order_of_the_list_decides_not_the_names() -> None:
    """Programs of the trec_eval family order equal scores by name; a ranking has no equal scores."""
    for ranking in (["a", "z"], ["z", "a"]):
        values = per_query({"q": ranking}, {"q": {"z": 1}})
        assert values["MRR@10"]["q"] == 1 / (1 + ranking.index("z"))


def test_a_document_twice_in_a_ranking_is_refused() -> None:
    with pytest.raises(ValueError, match="'a' stands twice in the ranking of query 'q'"):
        per_query({"q": ["a", "b", "a"]}, {"q": {"a": 1}})


def test_an_unknown_measure_names_the_allowed_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown measure 'MAP'; allowed: nDCG@10, recall@10"):
        per_query({}, {"q": {"a": 1}}, ["MAP"])


def test_shallow_rankings_are_not_asked_for_deep_measures() -> None:
    assert measurable(10) == measurable(99) == ["nDCG@10", "recall@10", "MRR@10"]
    assert measurable(100) == list(MEASURES)
    with pytest.raises(ValueError, match="k is 9"):
        measurable(9)


def test_the_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ir_measures", None)
    with pytest.raises(MissingExtra, match=r"ragstone\[eval\]"):
        per_query({"q": ["a"]}, {"q": {"a": 1}})
