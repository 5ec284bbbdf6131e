"""How far two raters agree, with intervals. Knows classes and numbers, one pair per item; knows no judge and no answer.

Cohen's kappa (1960), its quadratic weights (1968) and Spearman's rank correlation; intervals are percentiles over resampled items.
Where a number is not defined (one rater used a single class, ranks do not vary) there is none, rather than NaN; resamples in which
that happens are left out of an interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from rag.eval.chain_report import Estimate

NUM_RESAMPLES = 2000
Numbers = NDArray[np.float64]


def confusion(human: Sequence[int], judge: Sequence[int], num_classes: int) -> list[list[int]]:
    """``[h][j]``: items that people put in class ``h`` and the judge in ``j``. Raises ``ValueError`` if they do not pair up."""
    cells = _cells(human, judge, num_classes)
    counted = np.bincount(cells, minlength=num_classes * num_classes).reshape(num_classes, num_classes)
    return [[int(count) for count in row] for row in counted]


def agreement(human: Sequence[int], judge: Sequence[int], num_classes: int, *, seed: int = 0) -> Estimate | None:
    """The share of items in the same class."""
    same = np.eye(num_classes)
    return _estimate(human, judge, num_classes, seed, lambda tables: (tables * same).sum(axis=(1, 2)))


def kappa(
    human: Sequence[int], judge: Sequence[int], num_classes: int, *, weighted: bool = False, seed: int = 0
) -> Estimate | None:
    """1 - observed / expected disagreement; ``weighted``: a disagreement weighs its squared distance in classes."""
    places = np.arange(num_classes)
    apart = (places[:, None] - places[None, :]) ** 2.0
    weights = apart if weighted else (apart > 0).astype(np.float64)

    def of(tables: Numbers) -> Numbers:
        expected = tables.sum(axis=2)[:, :, None] * tables.sum(axis=1)[:, None, :]
        by_chance = (expected * weights).sum(axis=(1, 2))
        seen = (tables * weights).sum(axis=(1, 2))
        ratio: Numbers = np.divide(seen, by_chance, out=np.full(len(tables), np.nan), where=by_chance > 0)
        return 1 - ratio

    return _estimate(human, judge, num_classes, seed, of)


def spearman(human: Sequence[float], judge: Sequence[float], *, seed: int = 0) -> Estimate | None:
    """The correlation of ranks, ties sharing their mean rank."""
    if not len(human):
        return None
    pairs = np.array([human, judge], dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(human), size=(NUM_RESAMPLES, len(human)))
    return _with_interval(float(_rank_correlation(pairs[:, None])[0]), _rank_correlation(pairs[:, drawn]), len(human))


def _rank_correlation(pairs: Numbers) -> Numbers:
    """``(2, samples, items)`` -> ``(samples,)``; NaN where ranks do not vary."""
    from scipy.stats import rankdata

    ranks = rankdata(pairs, axis=-1)
    ranks -= ranks.mean(axis=-1, keepdims=True)
    spread = np.sqrt((ranks**2).sum(axis=-1).prod(axis=0))
    correlation: Numbers = np.divide(
        (ranks[0] * ranks[1]).sum(axis=-1), spread, out=np.full(len(spread), np.nan), where=spread > 1e-9
    )
    return correlation


def _cells(human: Sequence[int], judge: Sequence[int], num_classes: int) -> NDArray[np.int64]:
    if len(human) != len(judge):
        raise ValueError(f"{len(human)} labels cannot be paired with {len(judge)} judgements")
    rows, columns = np.array(human, dtype=np.int64), np.array(judge, dtype=np.int64)
    if len(rows) and not (0 <= min(rows.min(), columns.min()) and max(rows.max(), columns.max()) < num_classes):
        raise ValueError(f"classes are numbers from 0 to {num_classes - 1}")
    return rows * num_classes + columns


def _estimate(
    human: Sequence[int], judge: Sequence[int], num_classes: int, seed: int, measure: Callable[[Numbers], Numbers]
) -> Estimate | None:
    """``measure`` of tables of shares ``(tables, classes, classes)``, and its interval."""
    cells = _cells(human, judge, num_classes)
    if not len(cells):
        return None
    shares = np.bincount(cells, minlength=num_classes * num_classes) / len(cells)
    drawn = np.random.default_rng(seed).multinomial(len(cells), shares, size=NUM_RESAMPLES) / len(cells)
    shape = (-1, num_classes, num_classes)
    return _with_interval(float(measure(shares.reshape(shape))[0]), measure(drawn.reshape(shape)), len(cells))


def _with_interval(value: float, drawn: Numbers, num_items: int) -> Estimate | None:
    defined = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or not len(defined):
        return None
    low, high = np.quantile(defined, [0.025, 0.975])
    return Estimate(mean=float(value), low=float(low), high=float(high), num_questions=num_items)
