"""The question's way through the parts: query stage, indexes, fusion, rerankers, selector. Knows what is committed; writes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rag import filter as filters
from rag.catalog import Catalog
from rag.core import PUBLIC, Hit, StageEvent
from rag.filter import Filter
from rag.parts import Parts
from rag.query.drive import Course, Rankings, steps
from rag.query.history import messages_of
from rag.retrieval import Retrieval


@dataclass(frozen=True, slots=True)
class Terms:
    """Under which every search for a question runs: the best ``k`` chunks per index, ``where`` as in ``rag.filter``, who asks, and the
    conversation before it.
    """

    k: int
    where: Filter | str | Mapping[str, Any] | None = None
    principals: Sequence[str] = ()
    history: Iterable[Any] = ()


class Chain:
    """Several questions side by side, or one with an event per stage. ``catalog`` raises ``IndexNotFound`` before the first ingest."""

    def __init__(self, parts: Parts, retrieval: Retrieval, catalog: Callable[[], Catalog]) -> None:
        self._parts = parts
        self._retrieval = retrieval
        self._catalog = catalog

    def ranked(self, query: str, terms: Terms) -> list[Hit]:
        """The chunks for one question, fused and reranked, best first."""
        courses = self._courses([query], terms)
        hits = list(courses[0].found.hits)
        for _, (hits,), _ in self._reranked(courses):
            pass
        return hits

    def rankings(self, queries: Sequence[str], terms: Terms) -> list[dict[str, list[Hit]]]:
        """Per question: stage name -> hits, of every index, ``fused``, and ``reranked`` where there are rerankers."""
        courses = self._courses(queries, terms)
        found = [{"fused" if stage == "fuse" else stage: hits for stage, hits, _ in course.stages()} for course in courses]
        if self._parts.query_stage.rewrites:
            for stages, course in zip(found, courses, strict=True):
                stages["fused"] = list(course.found.hits)
        for _, batch, _ in self._reranked(courses):
            for stages, hits in zip(found, batch, strict=True):
                stages["reranked"] = hits
        return found

    def events(self, query: str, terms: Terms) -> Iterator[StageEvent]:
        """One event per stage, as it ends, from the indexes to the selection; see ``Rag.stages`` for query stages that rewrite."""
        course = Course()
        rewrites = self._parts.query_stage.rewrites
        try:
            for name in self._steps([query], terms, [course]):
                if not rewrites:
                    yield _event(*course.stage(name))
        except Exception:  # a stage that raises takes nothing from those before it
            if rewrites:
                yield from (_event(*stage) for stage in course.stages())
            raise
        hits = list(course.found.hits)
        if rewrites:
            yield from (_event(*stage) for stage in course.stages())
            yield course.event(f"query:{self._parts.config.query.use}")
        for stage, (hits,), seconds in self._reranked([course]):
            yield _event(stage, hits, seconds)
        started = time.perf_counter()
        selected = self._parts.selector.rerank(course.found.question, hits)
        yield _event("select", selected, time.perf_counter() - started)

    def _courses(self, queries: Sequence[str], terms: Terms) -> list[Course]:
        """What the query stage made of each question."""
        courses = [Course() for _ in queries]
        for _ in self._steps(queries, terms, courses):
            pass
        return courses

    def _steps(self, queries: Sequence[str], terms: Terms, courses: Sequence[Course]) -> Iterator[str]:
        """Fills in the courses, every search of the query stage under the same terms; see ``steps``."""
        for query in queries:
            if not isinstance(query, str) or not query.strip():
                raise ValueError("the query is empty" if isinstance(query, str) else f"the query must be text, not {query!r}")
        allowed = [PUBLIC, *terms.principals]
        search = partial(self._searched, k=terms.k, expression=filters.load(terms.where), principals=allowed)
        return steps(self._parts.config.query.use, self._parts.query_stage, queries, messages_of(terms.history), search, courses)

    def _searched(self, queries: Sequence[str], k: int, expression: Filter | None, principals: Sequence[str]) -> Rankings:
        rankings: list[tuple[str, list[list[Hit]], float]] = []
        try:
            retrieved = self._retrieval.search(self._catalog(), self._parts.indexes, queries, k, expression, principals, rankings)
        finally:  # the indexes before one that raises have found what they have found
            yield from rankings
        if len(retrieved.rankings) > 1:
            started = time.perf_counter()
            fusion = self._parts.fusion
            batch = [fusion.fuse(retrieved.of(number), retrieved.vectors_of(number)) for number in range(len(queries))]
            yield "fuse", batch, time.perf_counter() - started

    def _reranked(self, courses: Sequence[Course]) -> Iterator[tuple[str, list[list[Hit]], float]]:
        config = self._parts.config
        batch = [list(course.found.hits) for course in courses]
        for block, (stage, reranker) in zip(config.rerankers, self._parts.rerankers, strict=True):
            started = time.perf_counter()
            depth = block.depth or config.search.rerank
            batch = [reranker.rerank(course.found.question, hits[:depth]) for course, hits in zip(courses, batch, strict=True)]
            yield stage, batch, time.perf_counter() - started


def _event(stage: str, hits: Sequence[Hit], seconds: float) -> StageEvent:
    return StageEvent(stage, tuple(hits), seconds)
