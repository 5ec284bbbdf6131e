"""One question through one pipeline: its events, judged stage by stage. Knows the pipeline's public face; sums up nothing.

Nothing is measured on the side: hits and seconds are those of the events that ``Rag.stages`` and ``Rag.stream`` yield.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rag.core import Answer, AnswerEvent, Event, Hit, StageEvent
from rag.eval.answer_outcome import MeasureAnswer, outcome_of
from rag.eval.answer_points import points_in_answer
from rag.eval.chain_index import Indexed
from rag.eval.chain_report import AnswerOutcome, Passage, QuestionOutcome, StageOutcome
from rag.eval.chain_stages import (
    ANSWER,
    PROMPT,
    RETRIEVE,
    SELECT,
    base_of,
    chunk_stage,
    hits_stage,
    lost_at,
    missed,
    read_stage,
    whole_share,
)
from rag.eval.chain_tokens import TokenMeasures
from rag.eval.chain_watch import rerank_stages
from rag.eval.peak_memory import PeakMemory
from rag.eval.placing import PlacedQuestion, place
from rag.eval.question import Question
from rag.eval.rank_measures import rank_measures
from rag.eval.watch import Account, Watch
from rag.pipeline import Rag

RANKING = "ranking"
"""Stands in the names of measures for the last ranking of a chain, whichever stage made it, so that chains can be compared."""

_QUERY = (
    "query"  # a stage called ``query`` or ``query:...`` rewrites the question; before the indexes it has no passages to hand on
)


@dataclass(slots=True)
class Walk:
    """What one question met on its way through the chain. ``stages``: (name, hits, seconds) in order; ``failed_at``: where it broke off."""

    stages: list[tuple[str, Sequence[Hit], float | None]] = field(default_factory=list)
    answer: Answer | None = None
    error: str | None = None
    failed_at: str | None = None
    peak_memory_mb: dict[str, float] = field(default_factory=dict)

    @property
    def hits(self) -> dict[str, Sequence[Hit]]:
        """Stage -> what it handed on."""
        return {stage: hits for stage, hits, _ in self.stages}


@dataclass(frozen=True)
class Examiner:
    """Judges questions on one index under one configuration, whose stages ``watch`` keeps the accounts of."""

    rag: Rag
    index: Indexed
    answers: bool
    measure: MeasureAnswer
    tokens: TokenMeasures | None
    watch: Watch
    memory: PeakMemory

    def outcome(self, question: Question) -> QuestionOutcome:
        """Asks, and judges what every stage had. A chain that raises is recorded, not raised; an interrupt passes through."""
        placed = place(question, self.index.library)
        calls = self.watch.meter.encoder_calls
        self.watch.begin()
        walk = walked(self.rag, question, self.answers, self.memory)
        calls = self.watch.meter.encoder_calls - calls
        _settle(walk, self.watch.accounts)
        stages = self._stages(placed, walk)
        lost = lost_at(placed, stages, self.rag.indexes, walk.hits, self.index.chunks, self.index.view)
        if walk.failed_at and (lost is None or lost == ANSWER):
            lost = walk.failed_at
        outcome = QuestionOutcome(
            id=question.id,
            question=question.question,
            type=question.type,
            answerable=question.answerable,
            reference=question.answers[0] if question.answers else None,
            points=[point.text for point in placed.points],
            unlocated=list(placed.unlocated),
            evidence=self._evidence(placed),
            stages=stages,
            lost_at=lost,
            measures=self._measures(placed, walk),
            cost=_cost(walk, self.watch.accounts, calls),
            reused=[stage for stage, account in self.watch.accounts.items() if account.num_reused],
            error=walk.error,
        )
        if walk.answer is not None:
            try:
                outcome.answer = self.measure(placed.question, walk.answer, self._texts_of(placed, walk.answer))
            except Exception as error:  # noqa: BLE001  # whatever a measure or its judge raises costs this measurement, not the run
                outcome.answer = outcome_of(walk.answer, {}, {"measure_answer": _said(error)})
            self._rename(outcome.answer)
        return outcome

    def _stages(self, placed: PlacedQuestion, walk: Walk) -> list[StageOutcome]:
        view = self.index.view
        stages = [read_stage(placed, view), chunk_stage(placed, self.index.chunks, view)]
        stages += [hits_stage(stage, placed, hits, seconds, view) for stage, hits, seconds in walk.stages]
        if walk.answer is not None:
            found = points_in_answer(placed, walk.answer, self.index.library.texts)
            passages = [
                Passage(source=self.index.names[each.doc_id], start=each.start, end=each.end) for each in walk.answer.citations
            ]
            seconds = walk.answer.seconds.get("generate")
            stages.append(StageOutcome(stage=ANSWER, found=found, found_filtered=list(found), passages=passages, seconds=seconds))
        if walk.error is not None:
            reached = {stage.stage for stage in stages}
            stages += [missed(name, placed) for name in expected_stages(self.rag, self.answers) if name not in reached]
        return stages

    def _rename(self, answer: AnswerOutcome) -> None:
        """Citations get the names that documents have in the report, which tell no folder of this machine."""
        names = {source: self.index.names[doc] for doc, source in self.index.library.sources.items()}
        for citation in answer.citations:
            citation.source = names.get(citation.source, citation.source)

    def _evidence(self, placed: PlacedQuestion) -> list[Passage]:
        spans = list(placed.evidence)
        if not spans:
            clauses = (clause for point in placed.points for clause in point.clauses)
            spans = [(doc, places[0]) for clause in clauses for doc, places in clause.places.items()]
        texts, names = self.index.library.texts, self.index.names
        return [Passage(source=names[doc], start=span.start, end=span.end, text=span.of(texts[doc])) for doc, span in spans]

    def _measures(self, placed: PlacedQuestion, walk: Walk) -> dict[str, float]:
        measures: dict[str, float] = {}
        whole = whole_share(placed, self.index.chunks)
        if whole is not None:
            measures["chunk/whole"] = whole
        question = placed.question
        grades: dict[str, int] = {}
        for source, grade in (question.relevant or dict.fromkeys(question.sources, 1)).items():
            grades.update(dict.fromkeys(self.index.library.find(source) or [source], grade))  # what is not there cannot be found
        for stage, hits, _ in walk.stages if any(grade > 0 for grade in grades.values()) else ():
            if stage not in (SELECT, PROMPT, RETRIEVE):
                found = rank_measures(list(dict.fromkeys(hit.chunk.doc_id for hit in hits)), grades)
                for name, value in found.items():
                    measures[f"{stage}/{name}"] = measures[f"{RANKING}/{name}"] = value  # the last ranking stays
        if self.tokens is not None:
            measures.update(self.tokens.of(placed.evidence, walk.stages))
        return measures

    def _texts_of(self, placed: PlacedQuestion, answer: Answer) -> dict[str, str]:
        """By every name that the question and the answer use of a document."""
        library = self.index.library
        names = [each.source for each in placed.question.evidence] + list(placed.question.sources)
        texts = {name: library.texts[doc] for name in names for doc in library.find(name)}
        return texts | {library.sources[each.doc_id]: library.texts[each.doc_id] for each in answer.citations}


def walked(rag: Rag, question: Question, answers: bool, memory: PeakMemory) -> Walk:
    """Runs the chain, with the conversation before the question, and keeps what passes by; an exception of the chain ends the walk."""
    walk = Walk()
    indexes = list(rag.indexes)
    history = [(turn.role, turn.text) for turn in question.history]
    ask = rag.stream if answers else rag.stages
    events: Iterator[Event] = ask(question.question, history=history)
    memory.since_mark_mb()
    try:
        for event in events:
            if isinstance(event, (StageEvent, AnswerEvent)):
                peak_mb = memory.since_mark_mb()
                if peak_mb is not None and event_stage(event) in (PROMPT, ANSWER):  # the stages before are watched one by one
                    walk.peak_memory_mb[event_stage(event)] = peak_mb
            if isinstance(event, StageEvent):
                if walk.stages or event.stage.partition(":")[0] != _QUERY:
                    _note(walk, event, indexes)
            elif isinstance(event, AnswerEvent):
                walk.answer = event.answer
    except Exception as error:  # noqa: BLE001  # any component may raise anything: it is this question's loss, and the others go on
        walk.error = _said(error)
        if set(indexes) <= walk.hits.keys():
            _unite(walk, indexes)
        reached = walk.hits.keys()
        walk.failed_at = next((name for name in expected_stages(rag, answers)[len(indexes) :] if name not in reached), ANSWER)
    return walk


def event_stage(event: StageEvent | AnswerEvent) -> str:
    """The stage that an event tells of."""
    return ANSWER if isinstance(event, AnswerEvent) else event.stage


def _settle(walk: Walk, accounts: Mapping[str, Account]) -> None:
    """Gives each stage the seconds and the memory of its account: those of when its output was made, whoever it was made for."""
    settled = []
    for stage, hits, seconds in walk.stages:
        if seconds is not None and stage in accounts:
            seconds = max(0.0, seconds + accounts[stage].correction)
        settled.append((stage, hits, seconds))
    walk.stages = settled
    peaks = {stage: account.spent.peak_memory_mb for stage, account in accounts.items() if account.spent.peak_memory_mb}
    walk.peak_memory_mb = peaks | walk.peak_memory_mb


def _note(walk: Walk, event: StageEvent, indexes: Sequence[str]) -> None:
    if event.stage not in indexes:
        _unite(walk, indexes)
    number = sum(base_of(name) == event.stage for name, _, _ in walk.stages)
    walk.stages.append((f"{event.stage}#{number + 1}" if number else event.stage, event.hits, event.seconds))


def _unite(walk: Walk, indexes: Sequence[str]) -> None:
    """Adds ``retrieve``, what any index has found up to now, unless it is there."""
    if RETRIEVE not in walk.hits:
        found = (hit for name, hits, _ in walk.stages if base_of(name) in indexes for hit in hits)
        united: dict[str, Hit] = {}
        for hit in found:
            united.setdefault(hit.chunk.id, hit)
        walk.stages.append((RETRIEVE, tuple(united.values()), None))


def expected_stages(rag: Rag, answers: bool) -> list[str]:
    """The stages from the indexes on that a question passes if nothing fails. A generator that does not tell has no ``prompt``."""
    fuse = ["fuse"] if len(rag.indexes) > 1 else []
    return [*rag.indexes, RETRIEVE, *fuse, *rerank_stages(rag.config), SELECT, *([PROMPT, ANSWER] if answers else [])]


def _cost(walk: Walk, accounts: Mapping[str, Account], encoder_calls: int) -> dict[str, float]:
    """``encoder_calls``: those that were made; the accounts know of those that were not, because their outcome was kept."""
    cost = {f"seconds/{stage}": seconds for stage, _, seconds in walk.stages if seconds is not None}
    cost |= {f"peak_memory_mb/{stage}": peak for stage, peak in walk.peak_memory_mb.items()}
    cost["encoder_calls"] = float(encoder_calls + sum(account.reused.encoder_calls for account in accounts.values()))
    if walk.answer is not None:
        cost["seconds/answer"] = walk.answer.seconds.get("generate", 0.0)
        cost.update({name: float(getattr(walk.answer.usage, name)) for name in walk.answer.usage.__slots__})
    for stage, account in accounts.items():
        if account.spent.lm_calls:
            cost[f"lm_tokens/{stage}"] = float(account.spent.prompt_tokens + account.spent.completion_tokens)
            if not stage.startswith(_QUERY):  # what a query stage asks for is part of the answer's usage
                for name in ("lm_calls", "prompt_tokens", "completion_tokens"):
                    cost[name] = cost.get(name, 0.0) + getattr(account.spent, name)
    return cost


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
