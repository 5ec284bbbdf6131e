"""What an evaluation found, as objects, as Markdown and as plain JSON values. Knows no pipeline and measures nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rag.eval.bootstrap import Difference, Interval
from rag.eval.metrics import MAIN


@dataclass(frozen=True, slots=True)
class Ranking:
    """One way of ranking: the name of an index, ``fused`` or ``reranked``.

    ``scores``: measure -> mean with interval. ``per_query``: measure -> query id -> value. ``documents``: query id ->
    document ids, best first. ``num_short``: rankings that ran out of chunks before they had ``k`` documents.
    """

    name: str
    scores: Mapping[str, Interval]
    per_query: Mapping[str, Mapping[str, float]] = field(repr=False)
    documents: Mapping[str, Sequence[str]] = field(repr=False)
    num_short: int = 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """Ranking ``name`` against ranking ``baseline`` by one measure, over the same queries."""

    measure: str
    name: str
    baseline: str
    difference: Difference

    @property
    def verdict(self) -> str:
        """``better``, ``worse`` or ``inside the noise``."""
        if self.difference.inside_noise:
            return "inside the noise"
        return "better" if self.difference.mean > 0 else "worse"


@dataclass(frozen=True, slots=True)
class BeirReport:
    """One test collection, evaluated.

    ``k``: documents per ranking; ``chunk_depth``: chunks that were asked for to get them. ``ms_per_query``: wall time of
    the whole search, embedding of the queries included, in batches of ``batch_size``, without the first call.
    ``unjudged_queries`` were not searched. ``num_missing_documents``: judged documents that the corpus lacks.
    ``num_foreign_hits``: documents found that are not of this collection (they count as not relevant).
    """

    name: str
    split: str
    num_documents: int
    num_empty_documents: int
    num_missing_documents: int
    num_queries: int
    unjudged_queries: Sequence[str]
    queries_without_relevant: Sequence[str]
    num_foreign_hits: int
    k: int
    chunk_depth: int
    batch_size: int
    ingest_seconds: float
    ms_per_query: float
    seed: int
    num_resamples: int
    rankings: Mapping[str, Ranking]
    comparisons: Sequence[Comparison]

    def as_dict(self, *, per_query: bool = False) -> dict[str, Any]:
        """Plain JSON values; with ``per_query`` also the value of every query, for comparing two reports later."""
        rankings = {}
        for ranking in self.rankings.values():
            rankings[ranking.name] = {
                "scores": {measure: asdict(score) for measure, score in ranking.scores.items()},
                "num_short": ranking.num_short,
            }
            if per_query:
                rankings[ranking.name]["per_query"] = {measure: dict(values) for measure, values in ranking.per_query.items()}
        return {
            "collection": self.name,
            "split": self.split,
            "num_documents": self.num_documents,
            "num_empty_documents": self.num_empty_documents,
            "num_missing_documents": self.num_missing_documents,
            "num_queries": self.num_queries,
            "num_unjudged_queries": len(self.unjudged_queries),
            "queries_without_relevant": list(self.queries_without_relevant),
            "num_foreign_hits": self.num_foreign_hits,
            "k": self.k,
            "chunk_depth": self.chunk_depth,
            "batch_size": self.batch_size,
            "ingest_seconds": self.ingest_seconds,
            "ms_per_query": self.ms_per_query,
            "seed": self.seed,
            "num_resamples": self.num_resamples,
            "rankings": rankings,
            "comparisons": [
                {
                    "measure": each.measure,
                    "name": each.name,
                    "baseline": each.baseline,
                    **asdict(each.difference),
                    "verdict": each.verdict,
                }
                for each in self.comparisons
            ],
        }

    def json(self, *, per_query: bool = False) -> str:
        """``as_dict`` as indented JSON text."""
        return json.dumps(self.as_dict(per_query=per_query), indent=2)

    def table(self) -> str:
        """Markdown: two tables, and what a reader should know about them."""
        measures = list(dict.fromkeys(measure for ranking in self.rankings.values() for measure in ranking.scores))
        setting = (
            f"{self.num_documents:,} documents, {self.num_queries:,} judged queries, {self.ms_per_query:.1f} ms per query "
            f"(batches of {self.batch_size}), {self.k} documents per ranking from {self.chunk_depth} chunks. "
            f"95 % bootstrap intervals over queries (seed {self.seed}, {self.num_resamples:,} resamples)."
        )
        parts = [
            f"## {self.name} ({self.split})",
            setting,
            markdown_table(
                ["ranking", *measures],
                [
                    [name, *(_with_interval(ranking.scores.get(measure)) for measure in measures)]
                    for name, ranking in self.rankings.items()
                ],
            ),
        ]
        if self.comparisons:
            parts.append(
                markdown_table(
                    ["measure", "ranking", "against", "difference", "p", "verdict"],
                    [
                        [each.measure, each.name, each.baseline, _signed(each.difference), f"{each.difference.p:.4f}", each.verdict]
                        for each in self.comparisons
                    ],
                )
            )
        parts += [in_words(each, self.num_queries) for each in self.comparisons if each.measure == MAIN]
        if remarks := self.remarks():
            parts.append("\n".join(f"- {remark}" for remark in remarks))
        return "\n\n".join(parts) + "\n"

    def remarks(self) -> list[str]:
        """What lowers or blurs the numbers, one sentence each; nothing if nothing does."""
        found = []
        if self.unjudged_queries:
            found.append(f"{_named(self.unjudged_queries, 'query', 'queries')} without judgements: not searched, not counted.")
        if self.queries_without_relevant:
            found.append(
                f"{_named(self.queries_without_relevant, 'query', 'queries')} without a relevant document: every ranking scores 0 there."
            )
        if self.num_missing_documents:
            found.append(f"{self.num_missing_documents} judged documents are not in the corpus and cannot be found.")
        if self.num_empty_documents:
            found.append(f"{self.num_empty_documents} documents have neither title nor text and were left out.")
        if self.num_foreign_hits:
            found.append(f"{self.num_foreign_hits} documents found are not of this collection: the index holds others too.")
        for ranking in self.rankings.values():
            if ranking.num_short:
                found.append(
                    f"{ranking.name}: {ranking.num_short} rankings hold fewer than {self.k} documents, since {self.chunk_depth} chunks "
                    f"reach no further: recall@{self.k} is a lower bound."
                )
            if len(ranking.scores) < max(len(each.scores) for each in self.rankings.values()):
                found.append(f"{ranking.name} orders only the head of a ranking: what looks deeper is not measured.")
        return found


def in_words(comparison: Comparison, num_queries: int) -> str:
    """The comparison as one sentence."""
    found = comparison.difference
    numbers = f"{_signed(found)}, p = {found.p:.4f}, {num_queries:,} queries"
    if comparison.difference.inside_noise:
        return f"By {comparison.measure}, the difference of {comparison.name} and {comparison.baseline} is inside the noise ({numbers})."
    return f"By {comparison.measure}, {comparison.name} is {comparison.verdict} than {comparison.baseline} ({numbers})."


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up.

    >>> print(markdown_table(["a", "bb"], [["1", "2"]]))
    | a | bb |
    | - | -- |
    | 1 | 2  |
    """
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def _with_interval(score: Interval | None) -> str:
    return f"{score.mean:.4f} ({score.low:.3f} to {score.high:.3f})" if score else "-"


def _signed(found: Difference) -> str:
    return f"{found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f})"


def _named(names: Sequence[str], one: str, many: str) -> str:
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} {one if len(names) == 1 else many} ({shown})"
