"""NMI and purity, against scikit-learn and by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.eval.clusters import nmi, purity

pairs = st.lists(st.tuples(st.integers(0, 4), st.integers(-1, 3), st.integers(0, 3)), min_size=1, max_size=40)


@given(pairs)
@settings(max_examples=150, deadline=None)
def test_equal_to_scikit_learn(rows: list[tuple[int, int, int]]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    labels, truth, weights = (list(column) for column in zip(*rows, strict=True))
    assert nmi(labels, truth) == pytest.approx(metrics.normalized_mutual_info_score(truth, labels), abs=1e-9)
    table = metrics.cluster.contingency_matrix(truth, labels)
    assert purity(labels, truth) == pytest.approx(table.max(axis=0).sum() / table.sum())
    # a weight is as good as so many items
    repeated = [(label, true) for label, true, weight in rows for _ in range(weight)]
    if repeated:
        again, true_again = (list(column) for column in zip(*repeated, strict=True))
        assert nmi(labels, truth, weights) == pytest.approx(nmi(again, true_again), abs=1e-9)
        assert purity(labels, truth, weights) == pytest.approx(purity(again, true_again))
    else:
        assert nmi(labels, truth, weights) == purity(labels, truth, weights) == 0.0


def test_extremes() -> None:
    assert nmi(["x", "x"], [1, 1]) == 1.0
    assert nmi([0, 1], [1, 1]) == 0.0
    assert purity([0, 1, 2], ["a", "a", "b"]) == 1.0
    assert nmi([], []) == purity([], []) == 0.0


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="1 labels and 2 true labels"):
        nmi([0], [0, 1])
    with pytest.raises(ValueError, match="must not be negative"):
        purity([0], [0], [-1.0])
    with pytest.raises(ValueError, match="must not be negative"):
        purity([0], [0], [float("nan")])
    with pytest.raises(ValueError, match=r"must be \(2,\)"):
        nmi([0, 1], [0, 1], [1.0])
