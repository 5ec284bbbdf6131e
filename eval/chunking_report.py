"""What a comparison of chunkers found, as objects, as tables and as plain JSON values. Measures nothing, prints nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.box import MARKDOWN
from rich.markup import escape
from rich.table import Table

from rag.eval.bootstrap import Interval
from rag.eval.report import Comparison

UNITS = ("tokens", "characters")
OMEGA = "precision-omega"
MARKS = {"better": "win", "worse": "loss", "inside the noise": ""}


def at_k(measure: str, k: int) -> str:
    """The name of a measure over the first ``k`` chunks."""
    return f"{measure}@{k}"


def at_budget(measure: str, budget: int) -> str:
    """The name of a measure over the first ``budget`` tokens."""
    return f"{measure}@{budget} tokens"


@dataclass(frozen=True, slots=True)
class Segmented:
    """Agreement with marked topics, means over ``num_documents`` transcripts. ``even``: the same of as many cuts at equal distances.

    ``f1`` allows ``tolerance`` turns; ``pk`` and ``window_diff`` are error rates.
    """

    num_documents: int
    tolerance: int
    mean_marked: float
    mean_cuts: float
    f1: float
    pk: float
    window_diff: float
    even: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Row:
    """One chunker. ``scores``: unit -> measure -> mean with interval; ``per_question``: unit -> measure -> a value per question.

    ``mean_tokens``: of a chunk's text; ``mean_context_tokens``: of the words added to it. ``returned_tokens``: mean over questions of
    the first k chunks, context included. ``num_short``: budget -> questions whose list ended before it though there were more chunks.
    """

    name: str
    chunker: Mapping[str, Any]
    indexes: Mapping[str, Any]
    ranking: str
    num_chunks: int
    mean_tokens: float
    mean_context_tokens: float
    returned_tokens: float
    chunk_seconds: float
    ingest_seconds: float
    ms_per_query: float
    num_short: Mapping[int, int]
    scores: Mapping[str, Mapping[str, Interval]]
    per_question: Mapping[str, Mapping[str, Sequence[float]]] = field(repr=False)
    segmented: Segmented | None = None


@dataclass(frozen=True, slots=True)
class ChunkingReport:
    """Chunkers compared on one set. ``within``: what was searched for a question, ``all`` documents or its own ``document``.

    ``ceilings``: budget -> mean recall in tokens of a retriever that returns nothing but the answers. ``comparisons`` are with
    ``baseline``, in tokens, over the same questions.
    """

    name: str
    num_documents: int
    num_questions: int
    num_tokens: int
    within: str
    k: int
    budgets: Sequence[int]
    depth: int
    baseline: str
    seed: int
    num_resamples: int
    ceilings: Mapping[int, float]
    rows: Mapping[str, Row]
    comparisons: Sequence[Comparison]

    def as_dict(self, *, per_question: bool = False) -> dict[str, Any]:
        """Plain JSON values; with ``per_question`` also the value of every question, in the order of the set."""
        whole = asdict(self)
        for row in whole["rows"].values():
            if not per_question:
                del row["per_question"]
        for found, comparison in zip(whole["comparisons"], self.comparisons, strict=True):
            found.update(found.pop("difference"), verdict=comparison.verdict)
        return whole

    def json(self, *, per_question: bool = False) -> str:
        """``as_dict`` as indented JSON text."""
        return json.dumps(self.as_dict(per_question=per_question), indent=2, ensure_ascii=False)

    def heading(self) -> str:
        """What was measured, in sentences."""
        searched = "all documents together" if self.within == "all" else "the question's own document"
        return (
            f"{self.name}: {self.num_questions:,} questions, {self.num_documents:,} documents, {self.num_tokens:,} tokens; searched: "
            f"{searched}. Counted in tokens. Means over questions; win and loss against {self.baseline} only where the 95 % bootstrap "
            f"interval of the paired difference excludes 0 and p < 0.05 (seed {self.seed}, {self.num_resamples:,} resamples, not "
            f"corrected for the number of comparisons)."
        )

    def tables(self) -> list[Table]:
        """The tables for a terminal: at ``k`` chunks, at equal budgets, and agreement with topics where the set has them."""
        tables = [self._at_k(), self._at_budgets()]
        return [*tables, self._topics()] if any(row.segmented for row in self.rows.values()) else tables

    def remarks(self) -> list[str]:
        """What lowers or blurs the numbers, one sentence each."""
        found = []
        for row in self.rows.values():
            if short := {budget: number for budget, number in row.num_short.items() if number}:
                said = ", ".join(f"{number} before {budget}" for budget, number in short.items())
                found.append(f"{row.name}: lists from {self.depth} chunks per index end early for some questions ({said} tokens).")
        return found

    def _at_k(self) -> Table:
        measures = [at_k(measure, self.k) for measure in ("recall", "precision", "iou")] + [OMEGA]
        columns = ["chunks", "tokens each", f"tokens@{self.k}", *(f"{measure} %" for measure in measures), "chunking s", "ingest s"]
        table = _table(f"The first {self.k} chunks, however long they are", columns)
        for row in self.rows.values():
            sizes = [f"{row.num_chunks:,}", f"{row.mean_tokens:.0f}", f"{row.returned_tokens:.0f}"]
            seconds = [f"{row.chunk_seconds:.1f}", f"{row.ingest_seconds:.1f}"]
            table.add_row(escape(row.name), *sizes, *(self._cell(row, measure) for measure in measures), *seconds)
        return table

    def _at_budgets(self) -> Table:
        table = _table("Recall % at equal numbers of returned tokens", [f"{budget} tokens" for budget in self.budgets])
        for row in self.rows.values():
            table.add_row(
                escape(row.name), *(self._cell(row, at_budget("recall", budget), with_interval=True) for budget in self.budgets)
            )
        table.add_row("(nothing but the answers)", *(f"{100 * self.ceilings[budget]:.1f}" for budget in self.budgets))
        return table

    def _topics(self) -> Table:
        table = _table(
            "Agreement with marked topics (in brackets: as many cuts at equal distances)",
            ["marked", "cuts", "boundary F1", "Pk (lower is better)", "WindowDiff (lower is better)"],
        )
        for row in self.rows.values():
            if found := row.segmented:
                values = [f"{getattr(found, name):.3f} ({found.even[name]:.3f})" for name in ("f1", "pk", "window_diff")]
                table.add_row(escape(row.name), f"{found.mean_marked:.1f}", f"{found.mean_cuts:.1f}", *values)
        return table

    def _cell(self, row: Row, measure: str, *, with_interval: bool = False) -> str:
        score = row.scores["tokens"][measure]
        interval = f" ({100 * score.low:.1f} to {100 * score.high:.1f})" if with_interval else ""
        verdict = next((each.verdict for each in self.comparisons if (each.measure, each.name) == (measure, row.name)), "")
        return f"{100 * score.mean:.1f}{interval} {MARKS.get(verdict, '')}".rstrip()


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=MARKDOWN)
    table.add_column("chunker", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table
