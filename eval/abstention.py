"""Does a pipeline decline when it should, and only then? Knows outcomes of questions; knows no answer text.

Over questions that the sources answer (``yes``) and do not answer (``no``), with declining as the positive class: recall is the
share declined of ``no``, precision the share of ``no`` among the declined, F1 their harmonic mean. Questions that are answered
partly, and unclear ones, count in none of these; their declined shares stand apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from rag.eval.bootstrap import NUM_RESAMPLES
from rag.eval.chain_report import Estimate, QuestionOutcome

SHARES = {"no": "abstention/declined_unanswerable", "yes": "abstention/declined_answerable", "partly": "abstention/declined_partly",
          "unclear": "abstention/declined_unclear"}  # fmt: skip
PRECISION, F1 = "abstention/precision", "abstention/f1"

_Measure = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def estimates(outcomes: Iterable[QuestionOutcome], *, seed: int = 0, num_resamples: int = NUM_RESAMPLES) -> dict[str, Estimate]:
    """``abstention/declined_unanswerable`` (higher is better), ``abstention/declined_answerable`` (lower is better),
    ``abstention/declined_partly``, ``abstention/declined_unclear``, each if there are such questions; ``abstention/precision`` and
    ``abstention/f1`` if there are both ``yes`` and ``no``. Questions that have no answer because their chain broke off are
    ``num_failed``. Precision is 0 if nothing was declined.
    """
    everything = list(outcomes)
    found: dict[str, Estimate] = {}
    for answerable, name in SHARES.items():
        declined = [each.answer.abstained for each in everything if each.answerable == answerable and each.answer is not None]
        num_failed = sum(each.answerable == answerable and each.answer is None for each in everything)
        if declined:
            counts = np.array([[value, 1] for value in declined])
            found[name] = _estimate(counts, _ratio, num_failed, seed, num_resamples)
    judged = [each for each in everything if each.answerable in ("yes", "no")]
    answered = [each for each in judged if each.answer is not None]
    if {each.answerable for each in answered} == {"yes", "no"}:
        rows = [(bool(each.answer and each.answer.abstained), each.answerable == "no") for each in answered]
        counts = np.array([[declined and should, declined, should] for declined, should in rows])
        num_failed = len(judged) - len(answered)
        found[PRECISION] = _estimate(counts[:, :2], _ratio, num_failed, seed, num_resamples)
        found[F1] = _estimate(counts, _f1, num_failed, seed, num_resamples)
    return found


def _ratio(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """First column over the second; 0 where that is 0."""
    return np.divide(sums[:, 0], sums[:, 1], out=np.zeros(len(sums)), where=sums[:, 1] > 0)


def _f1(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """2 * both / (declined + should decline)."""
    return _ratio(np.stack([2 * sums[:, 0], sums[:, 1] + sums[:, 2]], axis=1))


def _estimate(counts: NDArray[np.bool_], measure: _Measure, num_failed: int, seed: int, num_resamples: int) -> Estimate:
    """``measure`` of the column sums, and the 95 % interval of what it is over resampled questions."""
    table = counts.astype(np.float64)
    generator = np.random.default_rng(seed)
    weights = generator.multinomial(len(table), np.full(len(table), 1 / len(table)), size=num_resamples)
    low, high = np.quantile(measure(weights @ table), [0.025, 0.975])
    mean = float(measure(table.sum(axis=0, keepdims=True))[0])
    return Estimate(mean=mean, low=float(low), high=float(high), num_questions=len(table), num_failed=num_failed)
