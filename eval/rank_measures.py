"""nDCG, reciprocal rank and recall of one ranking of names, in a few lines. Knows names and grades; knows no question.

The sums are trec_eval's (gain of nDCG is the grade itself, discount ``log2(rank + 1)``), and a test holds them against it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


def rank_measures(ranking: Sequence[str], grades: Mapping[str, int], depth: int = 10) -> dict[str, float]:
    """``nDCG@depth``, ``MRR@depth`` and ``recall@depth`` of ``ranking``, best first. ``grades``: above 0 is relevant.

    Raises ``ValueError`` if nothing is relevant or a name stands in the ranking twice.

    >>> rank_measures(["a", "b"], {"b": 1})
    {'nDCG@10': 0.6309297535714575, 'MRR@10': 0.5, 'recall@10': 1.0}
    """
    relevant = {name: grade for name, grade in grades.items() if grade > 0}
    if not relevant:
        raise ValueError("nothing is relevant: a ranking cannot be measured")
    if len(set(ranking)) != len(ranking):
        raise ValueError("a name stands in the ranking twice")
    head = ranking[:depth]
    ideal = _gain(sorted(relevant.values(), reverse=True)[:depth])
    first = next((rank for rank, name in enumerate(head, start=1) if name in relevant), 0)
    return {
        f"nDCG@{depth}": _gain([relevant.get(name, 0) for name in head]) / ideal,
        f"MRR@{depth}": 1 / first if first else 0.0,
        f"recall@{depth}": sum(name in relevant for name in head) / len(relevant),
    }


def _gain(grades: Sequence[int]) -> float:
    return sum(grade / math.log2(rank + 1) for rank, grade in enumerate(grades, start=1))
