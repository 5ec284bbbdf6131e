"""What each stage of a chain had of a question, and where the question was lost. Knows spans and stage names; runs nothing.

A stage has a point if the pieces it hands on hold all its clauses (``rag.eval.clauses``). With the coarse filter, pieces that have none of the
question's topic terms, neither in their text nor in their context, count for nothing.

A question is lost at the first stage of its way that misses a point. Single indexes are not on the way, their union ``retrieve`` is. One
loss has its cause elsewhere: where a clause is whole in no chunk, and a stage from ``retrieve`` to ``select`` still has a part of it but not
the rest, the chunker tore it, and ``chunk`` is to blame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rag.core import Chunk, Hit, Span
from rag.eval.chain_report import Passage, StageOutcome
from rag.eval.clauses import regions
from rag.eval.folded import Folded
from rag.eval.placing import PlacedQuestion

READ, CHUNK, RETRIEVE, SELECT, PROMPT, ANSWER = "read", "chunk", "retrieve", "select", "prompt", "answer"
MAX_PASSAGES = 10
"""Hits of one stage that a report keeps, beside those that touch a point or the evidence; of ``retrieve``, a union, only those are kept."""


@dataclass(frozen=True, slots=True)
class View:
    """What is needed to judge pieces of documents: texts by document id, their names in the report, both kinds of text folded."""

    texts: Mapping[str, str]
    names: Mapping[str, str]
    document: Callable[[str], Folded]
    folded: Callable[[Chunk], Folded]


def read_stage(placed: PlacedQuestion, view: View) -> StageOutcome:
    """Whether the extracted text has each point; filtered: whether its document has a topic term."""
    places = {doc: spans for point in placed.points for clause in point.clauses for doc, spans in clause.places.items()}
    useful = {doc for doc in places if _is_useful(placed, view.document(doc))}
    found = [all(clause.places for clause in point.clauses) for point in placed.points]
    filtered = [all(clause.places.keys() & useful for clause in point.clauses) for point in placed.points]
    first = [(doc, spans[0]) for point in placed.points for clause in point.clauses for doc, spans in clause.places.items()]
    passages = [Passage(source=view.names[doc], start=span.start, end=span.end) for doc, span in first[:MAX_PASSAGES]]
    return StageOutcome(stage=READ, found=found, found_filtered=filtered, passages=passages)


def chunk_stage(placed: PlacedQuestion, chunks: Mapping[str, Sequence[Chunk]], view: View) -> StageOutcome:
    """Whether the chunks of the index hold each point, one chunk or neighbours. Passages: the chunks that touch a point."""
    near = [chunk for doc in _documents(placed) for chunk in chunks.get(doc, ())]
    found, filtered = _held(placed, near, view)
    touching = [chunk for chunk in near if _touches(placed, chunk)]
    passages = [Passage(source=view.names[each.doc_id], start=each.span.start, end=each.span.end) for each in touching]
    return StageOutcome(stage=CHUNK, found=found, found_filtered=filtered, passages=passages[:MAX_PASSAGES])


def whole_share(placed: PlacedQuestion, chunks: Mapping[str, Sequence[Chunk]]) -> float | None:
    """The share of clauses (of those that are in the text) that some chunk holds whole by itself; ``None`` if there are none."""
    clauses = [clause for point in placed.points for clause in point.clauses if clause.places]
    whole = [any(clause.held({doc: [chunk.span]}) for doc in clause.places for chunk in chunks.get(doc, ())) for clause in clauses]
    return sum(whole) / len(whole) if whole else None


def hits_stage(stage: str, placed: PlacedQuestion, hits: Sequence[Hit], seconds: float | None, view: View) -> StageOutcome:
    """Whether ``hits`` hold each point."""
    found, filtered = _held(placed, [hit.chunk for hit in hits], view)
    passages = []
    num_kept = 0 if stage == RETRIEVE else MAX_PASSAGES
    for rank, hit in enumerate(hits, start=1):
        if rank <= num_kept or _touches(placed, hit.chunk):
            span = hit.chunk.span
            name = view.names[hit.chunk.doc_id]
            passages.append(Passage(source=name, start=span.start, end=span.end, score=float(hit.score), rank=rank))
    return StageOutcome(stage=stage, found=found, found_filtered=filtered, passages=passages, seconds=seconds)


def missed(stage: str, placed: PlacedQuestion) -> StageOutcome:
    """A stage that was not reached: it has nothing."""
    nothing = [False] * len(placed.points)
    return StageOutcome(stage=stage, found=nothing, found_filtered=list(nothing))


def lost_at(
    placed: PlacedQuestion,
    stages: Sequence[StageOutcome],
    indexes: Iterable[str],
    hits: Mapping[str, Sequence[Hit]],
    chunks: Mapping[str, Sequence[Chunk]],
    view: View,
) -> str | None:
    """The stage that lost the question; ``None`` if none did. ``hits``: stage -> what it handed on."""
    beside = frozenset(indexes)
    for outcome in stages:
        if base_of(outcome.stage) in beside or all(outcome.found):
            continue
        left = hits.get(outcome.stage)
        torn = left is not None and outcome.stage != PROMPT and _is_torn(placed, outcome, left, chunks, view)
        return CHUNK if torn else outcome.stage
    return None


def base_of(stage: str) -> str:
    """A stage's name without the number that tells it from others called alike (``rerank:cross-encoder#2``)."""
    return stage.partition("#")[0]


def _is_torn(
    placed: PlacedQuestion, outcome: StageOutcome, hits: Sequence[Hit], chunks: Mapping[str, Sequence[Chunk]], view: View
) -> bool:
    """Whether each clause that the stage misses is whole in no chunk, and a part of it is there."""
    left = regions([(hit.chunk.doc_id, hit.chunk.span) for hit in hits], view.texts)
    wanting = [point for point, found in zip(placed.points, outcome.found, strict=True) if not found]
    missing = [clause for point in wanting for clause in point.clauses if not clause.held(left)]
    whole = [any(clause.held({doc: [chunk.span]}) for doc in clause.places for chunk in chunks.get(doc, ())) for clause in missing]
    return not any(whole) and all(clause.touched(left) for clause in missing)


def _held(placed: PlacedQuestion, pieces: Sequence[Chunk], view: View) -> tuple[list[bool], list[bool]]:
    useful = [chunk for chunk in pieces if _is_useful(placed, view.folded(chunk))] if placed.coarse else pieces
    both = []
    for kept in (pieces, useful):
        own = regions([(chunk.doc_id, chunk.span) for chunk in kept], view.texts)
        both.append([all(clause.held(own) for clause in point.clauses) for point in placed.points])
    return both[0], both[1]


def _is_useful(placed: PlacedQuestion, text: Folded) -> bool:
    return not placed.coarse or any(text.holds(term) for term in placed.coarse)


def _documents(placed: PlacedQuestion) -> list[str]:
    return list(dict.fromkeys(doc for point in placed.points for clause in point.clauses for doc in clause.places))


def _touches(placed: PlacedQuestion, chunk: Chunk) -> bool:
    here = {chunk.doc_id: [chunk.span]}
    on_evidence = any(doc == chunk.doc_id and Span(*span).overlaps(chunk.span) for doc, span in placed.evidence)
    return on_evidence or any(clause.touched(here) for point in placed.points for clause in point.clauses)
