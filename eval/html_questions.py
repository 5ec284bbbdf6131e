"""What the report page keeps of every question for its list and its close-up view. Knows the report and a size; draws nothing.

Texts are cut here, around the evidence, and split into plain and marked parts: a script counts characters in another way, so it
is never handed an offset to cut at.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rag.eval.chain_report import AnswerOutcome, ChainReport, Passage, QuestionOutcome
from rag.eval.report_values import stages_of, unlocated_of
from rag.eval.report_words import key_of

MAX_BYTES = 7_000_000
_SAMPLE = 60


@dataclass(frozen=True, slots=True)
class Detail:
    """How much is kept: passages per stage, characters per passage, around evidence, and of an answer."""

    num_passages: int
    passage_chars: int
    around_chars: int
    answer_chars: int


LEVELS = (
    Detail(20, 600, 400, 6_000), Detail(10, 320, 240, 2_000), Detail(6, 200, 160, 1_000), Detail(4, 120, 100, 500), Detail(2, 80, 60, 300),
    Detail(0, 0, 40, 160),
)  # fmt: skip


def question_data(report: ChainReport, max_bytes: int = MAX_BYTES) -> tuple[dict[str, Any], list[str]]:
    """Everything that the page's script shows, at most about ``max_bytes`` as JSON, and what was cut for that, in words.

    Which level of detail fits is told from a sample of the questions.
    """
    ids = list(dict.fromkeys(question.id for config in report.configs for question in config.questions))
    sample = ids[:: max(1, len(ids) // _SAMPLE)]
    size = 0.0
    for detail in LEVELS:
        size = _num_bytes(_Pool(report, detail).data(sample)) * len(ids) / max(len(sample), 1)
        if size <= max_bytes:
            made = _Pool(report, detail).data(ids)
            size = _num_bytes(made)
            if size <= 1.2 * max_bytes:
                return made, _cuts(report, detail)
    fitting = max(1, int(len(ids) * max_bytes / size))
    remark = (
        f"The page would be too large with all questions: the list holds the first {fitting:,} of {len(ids):,}, without passages."
    )
    return _Pool(report, LEVELS[-1]).data(ids[:fitting]), [remark]


def _num_bytes(made: dict[str, Any]) -> int:
    return len(json.dumps(made["questions"], ensure_ascii=False).encode("utf-8", "replace"))


def _cuts(report: ChainReport, detail: Detail) -> list[str]:
    longest = max(
        (len(stage.passages) for config in report.configs for each in config.questions for stage in each.stages), default=0
    )
    if longest <= detail.num_passages:
        return []
    return [
        f"The close-up view of a question keeps the first {detail.num_passages} of up to {longest:,} passages per stage, and those with evidence."
    ]


@dataclass(slots=True)
class _Pool:
    """The sources and passages that several stages and configurations share are kept once."""

    report: ChainReport
    detail: Detail
    sources: dict[str, int] = field(default_factory=dict)

    def data(self, ids: Sequence[str]) -> dict[str, Any]:
        stages = stages_of(self.report.configs)
        by_config = [{question.id: question for question in config.questions} for config in self.report.configs]
        questions = [self._question([outcomes.get(name) for outcomes in by_config], stages) for name in ids]
        return {
            "configs": [{"key": key_of(number), "name": config.name} for number, config in enumerate(self.report.configs)],
            "stages": stages, "sources": list(self.sources), "questions": questions,
        }  # fmt: skip

    def _source(self, name: str) -> int:
        return self.sources.setdefault(name, len(self.sources))

    def _question(self, outcomes: Sequence[QuestionOutcome | None], stages: Sequence[str]) -> dict[str, Any]:
        first = next(outcome for outcome in outcomes if outcome is not None)
        passages: dict[tuple[str, int, int], int] = {}
        kept: list[list[Any]] = []
        runs = [None if outcome is None else self._run(outcome, stages, passages, kept, first.evidence) for outcome in outcomes]
        return {
            "id": first.id, "question": first.question, "type": first.type, "answerable": first.answerable, "reference": _head(first.reference, 1_000),
            "points": [_head(point, 400) for point in first.points], "evidence": [self._evidence(each) for each in first.evidence], "unlocated": [_head(point, 400) for point in unlocated_of(first)],
            "passages": kept, "runs": runs,
        }  # fmt: skip

    def _run(
        self,
        outcome: QuestionOutcome,
        stages: Sequence[str],
        passages: dict[tuple[str, int, int], int],
        kept: list[list[Any]],
        evidence: Sequence[Passage],
    ) -> dict[str, Any]:
        seen = []
        for stage in outcome.stages:
            placed = []
            for number, passage in enumerate(stage.passages):
                if number >= self.detail.num_passages and not (self.detail.num_passages and _overlap(passage, evidence)):
                    continue
                key = (passage.source, passage.start, passage.end)
                if key not in passages:
                    passages[key] = len(kept)
                    kept.append([self._source(passage.source), passage.start, passage.end, self._parts(passage, evidence)])
                placed.append([passages[key], passage.rank, _short(passage.score)])
            seen.append(
                [
                    stages.index(stage.stage),
                    _bits(stage.found),
                    _bits(stage.found_filtered),
                    _short(stage.seconds),
                    placed,
                    len(stage.passages),
                ]
            )
        made: dict[str, Any] = {"lost": stages.index(outcome.lost_at) if outcome.lost_at in stages else None, "stages": seen}
        if outcome.lost_at and outcome.lost_at not in stages:
            made["lost_word"] = outcome.lost_at
        if outcome.error:
            made["error"] = _head(outcome.error, 600)
        if outcome.answer is not None:
            made["answer"] = self._answer(outcome.answer)
        if self.detail.num_passages:
            made["cost"] = {name: _short(value) for name, value in outcome.cost.items()}
            made["measures"] = {name: _short(value) for name, value in outcome.measures.items()}
        return made

    def _answer(self, answer: AnswerOutcome) -> dict[str, Any]:
        citations = [
            [self._source(each.source), each.start, each.end, _head(self._text(each)[0], self.detail.passage_chars or 80)]
            for each in answer.citations
        ]
        return {
            "text": _head(answer.text, self.detail.answer_chars), "abstained": answer.abstained, "citations": citations,
            "measures": {name: _short(value) for name, value in answer.measures.items()}, "failures": answer.failures,
        }  # fmt: skip

    def _text(self, passage: Passage) -> tuple[str, int]:
        """The characters of a passage and where they begin in the document."""
        document = self.report.documents.get(passage.source)
        if document is not None:
            return document[passage.start : passage.end], passage.start
        return passage.text or "", passage.start

    def _parts(self, passage: Passage, evidence: Sequence[Passage]) -> list[str]:
        text, start = self._text(passage)
        spans = [(each.start - start, each.end - start) for each in evidence if each.source == passage.source]
        return excerpt(text, spans, self.detail.passage_chars)

    def _evidence(self, evidence: Passage) -> list[Any]:
        """The evidence in its document, with what stands around it."""
        document, around = self.report.documents.get(evidence.source), self.detail.around_chars
        if document is None:
            parts = ["", _head(evidence.text, 4 * around + 200)]
        else:
            start, end = max(0, evidence.start - around), min(len(document), evidence.end + around)
            parts = excerpt(document[start:end], [(evidence.start - start, evidence.end - start)], 4 * around + 400)
            parts[0] = ("\u2026" if start and not parts[0].startswith("\u2026") else "") + parts[0]
            if end < len(document) and not parts[-1].endswith("\u2026"):
                parts = [*parts[:-1], parts[-1] + "\u2026"] if len(parts) % 2 else [*parts, "\u2026"]
        return [self._source(evidence.source), evidence.start, evidence.end, parts]


def excerpt(text: str, spans: Sequence[tuple[int, int]], max_chars: int) -> list[str]:
    """At most ``max_chars`` of ``text``, so that the first of ``spans`` is in it, as plain, marked, plain, ... parts.

    >>> excerpt("one two three", [(4, 7)], 100)
    ['one ', 'two', ' three']
    >>> excerpt("one two three", [(8, 13)], 7)
    ['\u2026o ', 'three']
    """
    marked = sorted((max(start, 0), min(end, len(text))) for start, end in spans if start < len(text) and end > 0 and end > start)
    first = 0
    if len(text) > max_chars and marked:
        start, end = marked[0]
        first = max(0, min(start - max(0, max_chars - (end - start)) // 2, len(text) - max_chars))
    last = min(len(text), first + max_chars)
    parts, place = ["\u2026" if first else ""], first
    for start, end in marked:
        start, end = max(start, place), min(end, last)
        if start < end:
            parts[-1] += text[place:start]
            parts += [text[start:end], ""]
            place = end
    parts[-1] += text[place:last] + ("\u2026" if last < len(text) else "")
    return parts[:-1] if len(parts) > 1 and not parts[-1] else parts


def _overlap(passage: Passage, evidence: Sequence[Passage]) -> bool:
    return any(each.source == passage.source and each.start < passage.end and passage.start < each.end for each in evidence)


def _bits(found: Sequence[bool]) -> str:
    return "".join("1" if each else "0" for each in found)


def _short(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")


def _head(text: str | None, num_chars: int) -> str:
    said = text or ""
    return said if len(said) <= num_chars else said[:num_chars].rstrip() + "\u2026"
