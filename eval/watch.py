"""The parts of a chain under watch: what each call of them cost, and each made once for equal input. Knows protocols; judges nothing.

A watched component stands in the chain for the one it holds. What that gave for the same input before, under any configuration with the same
part over the same index, is handed on again, and its cost then counts as its cost now: a configuration is as dear as it would be alone.
Stages that follow see the same hits either way, so nothing but the time of the run depends on what was kept. A query stage is kept step by
step, each step under all hits that it was sent before, so one that asks on by what it found is watched as any other.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from rag.core import Finding, Found, Fusion, Hit, Interaction, Matches, Message, QueryStage, Reader, Reranker, VectorsOf, digest
from rag.eval.spending import Meter, Spent
from rag.eval.stage_forms import Form, Step, hits_form, matches_form, said, step_form
from rag.eval.stage_memo import StageMemo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")


@dataclass(slots=True)
class Account:
    """The calls of one stage for one question. ``correction``: seconds to add to what the chain saw pass; ``reused``: what was kept, not spent."""

    spent: Spent = field(default_factory=Spent)
    reused: Spent = field(default_factory=Spent)
    correction: float = 0.0
    num_reused: int = 0


class Watch:
    """The accounts of one chain, question by question. Without a ``memo`` it only measures."""

    def __init__(self, meter: Meter, memo: StageMemo | None) -> None:
        self.meter = meter
        self._memo = memo
        self.accounts: dict[str, Account] = {}

    def begin(self) -> None:
        """A new question."""
        self.accounts = {}

    def made(self, stage: str, key: str | None, make: Callable[[], T], form: Form[T]) -> T:
        """What ``make`` gives: kept under ``key`` if it was made before, else made now. Without a key nothing is kept."""
        began = time.perf_counter()
        memo = self._memo if key is not None else None
        kept = memo.get(key, form) if memo and key else None
        value, spent = kept or self.meter.measured(make)
        if memo and key and kept is None:
            memo.put(key, value, spent, form)
        account = self.accounts.setdefault(stage, Account())
        account.spent += spent
        if kept:
            account.reused += spent
            account.num_reused += 1
        account.correction += spent.seconds - (time.perf_counter() - began)
        return value

    def unbooked(self, stage: str, make: Callable[[], None]) -> None:
        """Lets ``make`` do again what stands in the account already."""
        began = time.perf_counter()
        _, spent = self.meter.measured(make)
        account = self.accounts.setdefault(stage, Account())
        account.reused += Spent(encoder_calls=-spent.encoder_calls)
        account.correction -= time.perf_counter() - began

    def knows(self, key: str | None, form: Form[Any]) -> bool:
        """Whether nothing would have to be made."""
        return self._memo is not None and key is not None and self._memo.get(key, form) is not None


class WatchedIndex:
    """An index whose searches are watched; everything else is the index's own. ``name``: ``None`` if nothing of it may be kept."""

    def __init__(self, index: Any, watch: Watch, stage: str, name: str | None) -> None:
        self._index, self._watch, self._stage, self._name = index, watch, stage, name

    def __getattr__(self, name: str) -> Any:
        if name == "_index":  # not yet there: a copy is being made
            raise AttributeError(name)
        return getattr(self._index, name)

    def reader(self, segments: Sequence[Any], live: NDArray[np.bool_]) -> Reader:
        """The index's reader, watched."""
        return WatchedReader(self._index.reader(segments, live), self._watch, self._stage, self._name)


class WatchedReader:
    """A reader whose searches are watched."""

    def __init__(self, reader: Reader, watch: Watch, stage: str, name: str | None) -> None:
        self._reader, self._watch, self._stage, self._name = reader, watch, stage, name

    def search(self, queries: Sequence[str], k: int, allow: NDArray[np.bool_] | None = None) -> list[Matches]:
        """What the reader finds, or found."""
        allowed = "all" if allow is None else allow.tobytes().hex()
        key = digest(self._name, str(k), allowed, *queries) if self._name else None
        return self._watch.made(self._stage, key, lambda: self._reader.search(queries, k, allow), matches_form())

    def vectors(self, queries: Sequence[str], keys: Sequence[NDArray[np.int64]]) -> list[Interaction]:
        """The reader's; who asks for them pays for them."""
        return self._reader.vectors(queries, keys)


class WatchedFusion:
    """A fusion under watch. Kept only if it reads vectors: others take less time than a look-up."""

    def __init__(self, fusion: Fusion, watch: Watch, stage: str, name: str | None) -> None:
        self._fusion, self._watch, self._stage = fusion, watch, stage
        self._name = name if name and fusion.reads_vectors else None

    def fuse(self, rankings: Mapping[str, Sequence[Hit]], vectors: VectorsOf) -> list[Hit]:
        """What the fusion makes, or made, of these rankings for this query."""
        query = getattr(vectors, "query", None)
        given = [hit for ranking in rankings.values() for hit in ranking]
        key = None
        if self._name and query is not None:
            key = digest(self._name, query, *(part for index, ranking in rankings.items() for part in (index, said(ranking))))
        return self._watch.made(self._stage, key, lambda: list(self._fusion.fuse(rankings, vectors)), hits_form(given))


class WatchedReranker:
    """A reranker or selector under watch."""

    def __init__(self, reranker: Reranker, watch: Watch, stage: str, name: str | None) -> None:
        self._reranker, self._watch, self._stage, self._name = reranker, watch, stage, name

    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """What the reranker makes, or made, of these hits for this query."""
        key = digest(self._name, query, said(hits)) if self._name else None
        return self._watch.made(self._stage, key, lambda: list(self._reranker.rerank(query, hits)), hits_form(hits))


class WatchedQueryStage:
    """A query stage under watch, step by step."""

    def __init__(self, query_stage: QueryStage, watch: Watch, stage: str, name: str | None) -> None:
        self._query_stage, self._watch, self._stage, self._name = query_stage, watch, stage, name

    @property
    def rewrites(self) -> bool:
        """The query stage's own."""
        return self._query_stage.rewrites

    def find(self, question: str, history: Sequence[Message]) -> Finding:
        """The searches and the result of the query stage. It runs only as far as its steps are not known."""
        running = _Running(self._query_stage.find(question, history))
        key = digest(self._name, question, json.dumps(history)) if self._name else None
        sent: list[list[list[Hit]]] = []
        while True:
            form = step_form([hit for rankings in sent for ranking in rankings for hit in ranking])
            if not self._watch.knows(key, form):
                self._watch.unbooked(self._stage, lambda: running.catch_up(sent))
            step = self._watch.made(self._stage, key, lambda: running.step(sent), form)
            if isinstance(step, Found):
                return step
            sent.append((yield step))
            key = digest(key, *(said(ranking) for ranking in sent[-1])) if key else None


class _Running:
    """The generator of a query stage, and how many steps it has made."""

    def __init__(self, finding: Finding) -> None:
        self._finding = finding
        self._num_steps = 0

    def catch_up(self, sent: Sequence[list[list[Hit]]]) -> None:
        """Makes the steps before the one that follows ``sent``."""
        while self._num_steps < len(sent):
            self.step(sent)

    def step(self, sent: Sequence[list[list[Hit]]]) -> Step:
        """The next step."""
        number = self._num_steps
        self._num_steps += 1
        try:
            return list(self._finding.send(sent[number - 1]) if number else next(self._finding))
        except StopIteration as stop:
            found: Found = stop.value
            return found
