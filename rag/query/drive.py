"""Runs query stages: searches what they ask for and sends them what was found. Knows their protocol, no index and no model.

Several questions go side by side: what their stages ask for in one round is one search, so an evaluation keeps its batches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from rag.core import Finding, Found, Hit, Message, QueryEvent, QueryStage
from rag.errors import ModelError
from rag.query.merge import interleaved

Rankings = Iterable[tuple[str, list[list[Hit]], float]]
"""(stage, hits per query, seconds), the last of them fused."""

Search = Callable[[Sequence[str]], Rankings]


@dataclass(slots=True)
class Course:
    """What one question led to: its queries, and per stage of the searches their rankings and seconds."""

    queries: list[str] = field(default_factory=list)
    rankings: dict[str, list[list[Hit]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    own_seconds: float = 0.0
    found: Found = field(default_factory=lambda: Found("", ()))

    def stages(self) -> Iterator[tuple[str, list[Hit], float]]:
        """Each stage of the searches once, whatever the number of queries."""
        for stage in self.rankings:
            yield self.stage(stage)

    def stage(self, name: str) -> tuple[str, list[Hit], float]:
        """One stage of the searches as it stands: its name, its chunks in the order of their ranks, its seconds."""
        rankings = self.rankings[name]
        return name, rankings[0] if len(rankings) == 1 else interleaved(rankings), self.seconds[name]

    def event(self, name: str) -> QueryEvent:
        """What the stage itself did, under the stage name ``name``."""
        found = self.found
        return QueryEvent(name, tuple(found.hits), self.own_seconds, found.question, tuple(self.queries), found.notes, found.usage)


def drive(word: str, stage: QueryStage, questions: Sequence[str], history: Sequence[Message], search: Search) -> list[Course]:
    """The course of each question. Raises what ``steps`` raises."""
    courses = [Course() for _ in questions]
    for _ in steps(word, stage, questions, history, search, courses):
        pass
    return courses


def steps(
    word: str, stage: QueryStage, questions: Sequence[str], history: Sequence[Message], search: Search, courses: Sequence[Course]
) -> Iterator[str]:
    """Fills in ``courses``, an empty one per question, and says the name of each stage of a search when it is done and noted there.

    A query stage that searches several times makes the same names come again. Raises ``ModelError`` that names the query stage,
    ``ValueError`` for one that asks for nothing; the courses then tell how far it came.
    """
    running = [(course, stage.find(question, history)) for course, question in zip(courses, questions, strict=True)]
    asked = [(course, finding, _advanced(word, course, finding, None)) for course, finding in running]
    while asked := [(course, finding, queries) for course, finding, queries in asked if queries is not None]:
        fused = yield from _searched(search, [(course, queries) for course, _, queries in asked])
        asked = [
            (course, finding, _advanced(word, course, finding, hits))
            for (course, finding, _), hits in zip(asked, fused, strict=True)
        ]


def _advanced(word: str, course: Course, finding: Finding, hits: list[list[Hit]] | None) -> list[str] | None:
    """The queries that the stage wants next; ``None`` once it has returned."""
    started = time.perf_counter()
    try:
        queries = list(next(finding) if hits is None else finding.send(hits))
    except StopIteration as stop:
        course.found = stop.value
        return None
    except ModelError as error:
        raise ModelError(f"query stage {word!r}: {error}") from error
    finally:
        course.own_seconds += time.perf_counter() - started
    if not queries or not all(isinstance(query, str) and query.strip() for query in queries):
        raise ValueError(f"query stage {word!r} asked to search for {queries!r}: at least one query, and none empty, is allowed")
    course.queries += queries
    return queries


def _searched(search: Search, asked: Sequence[tuple[Course, list[str]]]) -> Generator[str, None, list[list[list[Hit]]]]:
    """Per question and query the fused hits, of one search; its stages are noted on the courses, then named."""
    flat = [query for _, queries in asked for query in queries]
    batch: list[list[Hit]] = []
    for stage, batch, seconds in search(flat):
        place = 0
        for course, queries in asked:
            course.rankings.setdefault(stage, []).extend(batch[place : place + len(queries)])
            course.seconds[stage] = course.seconds.get(stage, 0.0) + seconds * len(queries) / len(flat)
            place += len(queries)
        yield stage
    ends = [sum(len(queries) for _, queries in asked[: number + 1]) for number in range(len(asked))]
    return [batch[end - len(queries) : end] for end, (_, queries) in zip(ends, asked, strict=True)]
