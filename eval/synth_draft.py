"""A question that is not yet kept: the words for it. Knows no model and no index."""

from __future__ import annotations

from dataclasses import dataclass

from rag.eval.question import Answerable, Evidence, Point


@dataclass(frozen=True, slots=True)
class Draft:
    """A question, its answer, the evidence in the documents, and its keywords. ``num_refused``: clauses that no source holds."""

    question: str
    type: str
    answers: tuple[str, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    coarse: tuple[str, ...] = ()
    points: tuple[Point, ...] = ()
    answerable: Answerable = "yes"
    num_refused: int = 0


@dataclass(frozen=True, slots=True)
class Dropped:
    """Why a passage gave no question: one of few reasons that are counted, and more for people."""

    reason: str
    told: str = ""
    num_refused: int = 0
