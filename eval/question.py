"""A question with what is known of its right answer, as pydantic models and JSONL. Knows no pipeline and no file layout of others.

Documents are named by ``source``: the name they were ingested under, or the end of it at a path separator (``manual.pdf`` names
``/home/ann/files/manual.pdf``). Offsets are characters of the document's canonical text.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Answerable = Literal["yes", "partly", "no", "unclear"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Evidence(_Record):
    """A passage that the answer rests on: ``text`` as quoted, and where it stands if that is known."""

    source: str
    text: str
    start: int | None = Field(default=None, ge=0)
    end: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.start is None) != (self.end is None):
            raise ValueError("start and end are given together or not at all")
        if self.start is not None and self.end is not None and self.end <= self.start:
            raise ValueError(f"the span {self.start}:{self.end} is empty")
        if not self.text.strip():
            raise ValueError("the text is empty")
        return self


class Clause(_Record):
    """Words of a source, verbatim, that an information point needs; located where possible."""

    text: str = Field(min_length=1)
    source: str | None = None
    start: int | None = Field(default=None, ge=0)
    end: int | None = Field(default=None, ge=1)


class Point(_Record):
    """An information point: it is found where all its clauses are found."""

    clauses: tuple[Clause, ...] = Field(min_length=1)

    @property
    def text(self) -> str:
        """The clauses as one line, for people."""
        return " \u2026 ".join(clause.text for clause in self.clauses)


class Turn(_Record):
    """One turn of the conversation before the question."""

    role: Literal["user", "assistant"]
    text: str


class Question(_Record):
    """A question and what is known of its answer. Everything but ``id`` and ``question`` may be missing.

    ``answers``: right answers, the reference first. ``sources``: documents that hold the answer. ``coarse``: terms of the topic, of
    which a useful chunk has at least one. ``points``: what the answer must contain, in words of the sources. ``relevant``: source ->
    grade above 0. ``type``: ``factual``, ``analytical``, ``comparative``, ``tutorial`` or any other word.
    """

    id: str = Field(min_length=1)
    question: str = Field(min_length=1)
    type: str = "factual"
    answers: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    coarse: tuple[str, ...] = ()
    points: tuple[Point, ...] = ()
    relevant: dict[str, int] = Field(default_factory=dict)
    answerable: Answerable = "yes"
    history: tuple[Turn, ...] = ()
