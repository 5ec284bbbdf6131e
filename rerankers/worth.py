"""What a hit costs and what its score is worth among others: the two numbers of every selection. Knows a tokenizer and no model."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rag.core import Hit, Tokenizer
from rag.tokenizer import counts_of


def token_costs(tokenizer: Tokenizer, hits: Sequence[Hit]) -> list[int]:
    """Tokens of each hit, context included."""
    return counts_of(tokenizer, [hit.chunk.indexed_text for hit in hits])


def unit_scores(hits: Sequence[Hit]) -> list[float]:
    """The scores moved and scaled to 0 (the lowest) to 1 (the highest); all 1 if they are equal.

    So a selection stays the same when every score is multiplied by a number or has one added: probabilities, logits, distances
    below zero are all alike. What is not finite counts as the end it lies at, ``nan`` as the lowest.
    """
    finite = [hit.score for hit in hits if math.isfinite(hit.score)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    return [_unit(hit.score, low, high) for hit in hits]


def _unit(score: float, low: float, high: float) -> float:
    if score == math.inf:
        return 1.0
    if not math.isfinite(score):
        return 0.0
    if high == low:
        return 1.0
    return (score / 2 - low / 2) / (high / 2 - low / 2)  # halves: the range of two floats need not be one


def check_limits(**limits: int | None) -> None:
    """Raises ``ValueError`` for a limit that is there and below 1."""
    for name, limit in limits.items():
        if limit is not None and limit < 1:
            raise ValueError(f"{name}={limit}: must be at least 1")


def check_share(**shares: float | None) -> None:
    """Raises ``ValueError`` for a number that is there and not from 0 to 1."""
    for name, share in shares.items():
        if share is not None and not 0 <= share <= 1:
            raise ValueError(f"{name}={share}: must be between 0 and 1")


def check_tokenizer(tokenizer: Tokenizer | None, max_tokens: int | None) -> None:
    """Raises ``ValueError`` if there is a limit in tokens and nothing to count them with."""
    if max_tokens is not None and tokenizer is None:
        raise ValueError(f"max_tokens={max_tokens}: needs a tokenizer (`models: {{tokenizer: {{use: ...}}}}`)")
