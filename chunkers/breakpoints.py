"""Between which neighbours a text breaks, given how far apart they are. Knows numbers only; knows no text and no model.

Every rule compares a score of each place between two neighbours with a threshold. The published rules cut wherever the score
is above it, whatever the size of what comes out; here a rule gives the *margins*, threshold - score: a place is a break if
its margin is negative, and whoever must keep to a size limit as well cuts where the margins that are cut add up to least.

Sources: ``percentile``, ``standard_deviation`` and ``interquartile`` are those of Greg Kamradt's notebook "5 levels of text
splitting" (2024) as LangChain's SemanticChunker gives them, ``gradient`` is LangChain's own; the amounts are its defaults.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Rule = Literal["percentile", "standard_deviation", "interquartile", "gradient", "absolute"]
RULES: tuple[str, ...] = get_args(Rule)

DEFAULT_AMOUNTS = {"percentile": 95.0, "standard_deviation": 3.0, "interquartile": 1.5, "gradient": 95.0, "absolute": 0.2}
"""``absolute``: a cosine of 0.8, the default of chonkie's semantic chunker."""


def margins(distances: NDArray[np.float64], rule: str, amount: float | None = None) -> NDArray[np.float64]:
    """Threshold minus score of each place, ``(places,)``; negative: the text breaks there.

    ``distances``, ``(places,)``, in reading order: 1 - cosine of the neighbours. With d = ``distances`` and a = ``amount``:

    ====================  =======================================================  ===========
    rule                  break where                                              default a
    ====================  =======================================================  ===========
    percentile            d > the a-th percentile of d                             95
    standard_deviation    d > mean(d) + a sd(d), sd over the population            3
    interquartile         d > mean(d) + a (75th - 25th percentile of d)            1.5
    gradient              d' > the a-th percentile of d'; d' central differences   95
    absolute              d > a                                                    0.2
    ====================  =======================================================  ===========

    Percentiles interpolate linearly. All but the last look at the distances of one text alone: how many breaks ``percentile``
    and ``gradient`` make depends on nothing but its length. One place alone never breaks under ``gradient``.
    Raises ``ValueError`` if the rule is unknown or the amount outside its range.
    """
    amount = checked_amount(rule, amount)
    if not len(distances):
        return np.zeros(0)
    scores = np.asarray(distances, dtype=np.float64)
    if rule == "gradient":
        scores = np.gradient(scores) if len(scores) > 1 else np.zeros(1)
    return _threshold(scores, rule, amount) - scores


def _threshold(scores: NDArray[np.float64], rule: str, amount: float) -> float:
    if rule == "absolute":
        return amount
    if rule == "standard_deviation":
        return float(scores.mean() + amount * scores.std())
    if rule == "interquartile":
        low, high = np.percentile(scores, [25, 75])
        return float(scores.mean() + amount * (high - low))
    return float(np.percentile(scores, amount))


def checked_amount(rule: str, amount: float | None) -> float:
    """``amount``, or the default of ``rule``. Raises ``ValueError`` as ``margins`` does."""
    if rule not in DEFAULT_AMOUNTS:
        raise ValueError(f"unknown rule {rule!r}; allowed: {', '.join(DEFAULT_AMOUNTS)}")
    if amount is None:
        return DEFAULT_AMOUNTS[rule]
    highest = {"percentile": 100.0, "gradient": 100.0, "absolute": 2.0}.get(rule, float("inf"))
    if not 0 <= amount <= highest:
        raise ValueError(f"amount={amount}: the rule {rule!r} takes a number between 0 and {highest:g}")
    return amount
