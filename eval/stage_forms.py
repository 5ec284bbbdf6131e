"""What stages hand on, as plain JSON values and back. Knows hits and matches; knows no stage.

Hits of a stage are mostly those that it was given, so their chunks are written as places among these, and only new ones in full.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from operator import eq
from typing import Any, Generic, TypeVar

import numpy as np

from rag.core import Chunk, Found, Hit, Matches, Placed, Span, Usage

T = TypeVar("T")


@dataclass(frozen=True)
class Form(Generic[T]):
    """How values of one kind are written, read again, and compared."""

    write: Callable[[T], Any]
    read: Callable[[Any], T]
    same: Callable[[T, T], bool] = eq

    def text(self, value: T) -> str | None:
        """``value`` as JSON; ``None`` if it would not be exactly the same when it is read again."""
        try:
            text = json.dumps(self.write(value), ensure_ascii=False)
        except (TypeError, ValueError):  # a part of it is no plain value
            return None
        return text if self.same(self.read(json.loads(text)), value) else None


def said(hits: Sequence[Hit]) -> str:
    """All that a stage can see of ``hits``, as one text."""
    rows = [(hit.chunk.id, hit.chunk.meta, hit.score, hit.why) for hit in hits]
    return json.dumps(rows, ensure_ascii=False, sort_keys=True, default=repr)


def hits_form(given: Sequence[Hit]) -> Form[list[Hit]]:
    """For hits that come of ``given``."""
    places = {hit.chunk.id: number for number, hit in enumerate(given)}

    def write(hits: list[Hit]) -> Any:
        return [[_chunk(hit.chunk), float(hit.score), hit.why] for hit in hits]

    def _chunk(chunk: Chunk) -> Any:
        place = places.get(chunk.id)
        return asdict(chunk) if place is None or given[place].chunk != chunk else place

    def read(plain: Any) -> list[Hit]:
        return [
            Hit(_read_chunk(chunk), score, {stage: Placed(*verdict) for stage, verdict in why.items()})
            for chunk, score, why in plain
        ]

    def _read_chunk(plain: Any) -> Chunk:
        return given[plain].chunk if isinstance(plain, int) else Chunk(**{**plain, "span": Span(*plain["span"])})

    return Form(write, read)


def matches_form() -> Form[list[Matches]]:
    """For what an index found, per query."""

    def write(found: list[Matches]) -> Any:
        return [[matches.keys.tolist(), matches.scores.tolist(), matches.scores.dtype.name] for matches in found]

    def read(plain: Any) -> list[Matches]:
        return [Matches(np.array(keys, np.int64), np.array(scores, np.dtype(kind))) for keys, scores, kind in plain]

    return Form(write, read, _same_matches)


def _same_matches(first: Sequence[Matches], second: Sequence[Matches]) -> bool:
    arrays = zip([array for matches in first for array in matches], [array for matches in second for array in matches], strict=True)
    return all(one.dtype == other.dtype and np.array_equal(one, other) for one, other in arrays)


Step = list[str] | Found
"""What a query stage does next: it asks for searches, or it is done."""


def step_form(given: Sequence[Hit]) -> Form[Step]:
    """For the steps of a query stage that was sent ``given``."""
    hits = hits_form(given)

    def write(step: Step) -> Any:
        if isinstance(step, list):
            return {"queries": step}
        return {"question": step.question, "hits": hits.write(list(step.hits)), "usage": asdict(step.usage), "notes": step.notes}

    def read(plain: Any) -> Step:
        if "queries" in plain:
            return list(plain["queries"])
        return Found(plain["question"], hits.read(plain["hits"]), Usage(**plain["usage"]), tuple(plain["notes"]))

    return Form(write, read, lambda one, other: _plain(one) == _plain(other))


def _plain(step: Step) -> Any:
    return step if isinstance(step, list) else (step.question, list(step.hits), step.usage, step.notes)
