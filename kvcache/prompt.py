"""A prompt as token ids, segment by segment. Knows no tokenizer, no store and no model.

The ids are the truth: what is cached, what is looked up and what is sent are the same numbers. Text is never decoded and encoded
again on the way (that can change ids at the seams), and no separator strings mark where a chunk begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain
from typing import Literal, get_args

SegmentKind = Literal["prefix", "glue", "chunk", "question"]


@dataclass(frozen=True, slots=True)
class Segment:
    """Some ids of a prompt. Only ``chunk`` segments are reused out of their place.

    ``glue`` (a label such as ``[2]``) is computed anew for every request; ``prior`` is a chunk's retrieval score.
    """

    kind: SegmentKind
    ids: tuple[int, ...]
    prior: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(SegmentKind):
            raise ValueError(f"segment kind {self.kind!r}: allowed are {', '.join(get_args(SegmentKind))}")
        if not self.ids and self.kind == "question":
            raise ValueError("a question segment needs at least one token: the answer continues it")


@dataclass(frozen=True)
class Prompt:
    """Segments in order: at most one ``prefix``, first; then glue and chunks; one ``question``, last.

    Raises ``ValueError`` if they come in another order.
    """

    segments: tuple[Segment, ...]

    def __post_init__(self) -> None:
        kinds = [segment.kind for segment in self.segments]
        if kinds.count("question") != 1 or kinds[-1] != "question":
            raise ValueError(f"the segments {kinds} must end with the one question")
        if kinds.count("prefix") > 1 or "prefix" in kinds[1:]:
            raise ValueError(f"the segments {kinds} may begin with one prefix and hold no other")

    @classmethod
    def of(
        cls, prefix: Sequence[int], chunks: Sequence[Sequence[int]], question: Sequence[int], priors: Sequence[float] | None = None
    ) -> Prompt:
        """A prompt without glue. ``priors``: a retrieval score per chunk, default all 0."""
        scores = priors if priors is not None else [0.0] * len(chunks)
        middle = [Segment("chunk", tuple(ids), score) for ids, score in zip(chunks, scores, strict=True)]
        return cls((Segment("prefix", tuple(prefix)), *middle, Segment("question", tuple(question))))

    @cached_property
    def ids(self) -> tuple[int, ...]:
        """The whole prompt."""
        return tuple(chain.from_iterable(segment.ids for segment in self.segments))

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Where each segment begins."""
        return tuple(accumulate((len(segment.ids) for segment in self.segments), initial=0))[:-1]

    @property
    def prefix(self) -> tuple[int, ...]:
        """The ids that every prompt of this kind begins with; may be empty."""
        return self.segments[0].ids if self.segments[0].kind == "prefix" else ()

    def __len__(self) -> int:
        return len(self.ids)
