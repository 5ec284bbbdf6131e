"""What a reranking cost. Knows counters and hits; knows no model and no method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from rag.core import Hit


@dataclass(frozen=True, slots=True)
class RerankReport:
    """The price of one ``rerank``.

    ``num_calls``: calls of the model's methods, each with a batch of ``num_prompts`` in all; papers count the latter. ``prompt_tokens``
    are counted piece by piece (frame once, each passage once), so they may be a few off per prompt. ``num_truncated``: passages that
    were not read to their end. ``counts``: what only this method counts (comparisons, windows, kinds of replies).
    """

    num_calls: int = 0
    num_prompts: int = 0
    prompt_tokens: int = 0
    num_truncated: int = 0
    seconds: float = 0.0
    counts: Mapping[str, int] = field(default_factory=dict)

    def as_cost(self) -> dict[str, float]:
        """Every number by name, those of ``counts`` beside the others."""
        own = ("num_calls", "num_prompts", "prompt_tokens", "num_truncated", "seconds")
        return {**{name: float(getattr(self, name)) for name in own}, **{name: float(of) for name, of in self.counts.items()}}


class Reranked(NamedTuple):
    """Hits, best first, and what it cost to order them."""

    hits: list[Hit]
    report: RerankReport


class ReportingReranker(ABC):
    """A reranker that says what it cost. The report is a return value, so threads that share a reranker cannot mix theirs up."""

    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """The hits of ``rerank_with_report``."""
        return self.rerank_with_report(query, hits).hits

    @abstractmethod
    def rerank_with_report(self, query: str, hits: Sequence[Hit]) -> Reranked:
        """A permutation of ``hits`` with this stage's score and rank in ``why``, and the report."""


def at_least(least: int, **values: int) -> None:
    """Raises ``ValueError`` that names the first option below ``least``."""
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name}={value}: must be at least {least}")


def one_of(allowed: Sequence[str], **values: str) -> None:
    """Raises ``ValueError`` that names the first option whose word is not allowed."""
    for name, value in values.items():
        if value not in allowed:
            raise ValueError(f"{name}={value!r}: allowed are {', '.join(allowed)}")
