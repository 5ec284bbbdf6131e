"""Marks what answers must contain in questions that people wrote: topic terms and points, by a language model. Knows ``keyword_lm``.

A question with evidence needs no model: its points are its evidence's sentences (``rag.eval.keywords``). The others are marked in the
passages that BM25 finds for the question and its reference answer, in the documents that the question names or in all of them. What
was marked is kept on disk, so an interrupted run goes on; what failed is asked again by the next one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory

from pydantic import BaseModel, ConfigDict

from rag.core import LM, Hit, digest
from rag.eval.answer_text import conversation
from rag.eval.chain_index import Indexed, ingested
from rag.eval.keyword_lm import KeywordMaker, SourceText
from rag.eval.placing import place
from rag.eval.question import Point, Question
from rag.eval.question_set import QuestionSet, named_sources
from rag.eval.sealed_rows import SealedRows
from rag.pipeline import Rag

_CONFIG = {
    "models": {"tokenizer": {"use": "words"}},
    "chunker": {"use": "structure", "max_tokens": 200},
    "indexes": {"words": {"use": "bm25"}},
}


class _Kept(BaseModel):
    model_config = ConfigDict(extra="forbid")
    coarse: tuple[str, ...]
    points: tuple[Point, ...]
    refused: tuple[str, ...]


@dataclass(slots=True)
class MarkingReport:
    """``num_marked``: by the model; ``num_ready``: had points or evidence; ``num_unanswerable``: need none. ``failures``: id -> why it
    has no points. ``num_refused``: clauses and terms that the model wrote and no passage holds.
    """

    num_marked: int = 0
    num_ready: int = 0
    num_unanswerable: int = 0
    num_refused: int = 0
    failures: dict[str, str] = field(default_factory=dict)


class Marking:
    """One run of ``lm`` over ``given``. ``k``: passages that the model is shown. ``kept``: file of what was marked before.

    Raises ``ValueError`` for ``k`` below 1.
    """

    def __init__(self, given: QuestionSet, lm: LM, kept: Path, *, k: int = 6) -> None:
        if k < 1:
            raise ValueError(f"k is {k}; allowed: 1 or more")
        self.report = MarkingReport()
        self._given, self._lm, self._k = given, lm, k
        self._maker = KeywordMaker(lm)
        self._rows = SealedRows(kept)

    def run(self, on_progress: Callable[[int, int], None] | None = None) -> QuestionSet:
        """The set with points wherever there are some now. ``on_progress`` hears (questions, of how many)."""
        marked: list[Question] = []
        with TemporaryDirectory(prefix="rag-eval-") as folder, Rag.open(Path(folder) / "index", _CONFIG) as opened:
            indexed = ingested(opened, self._given)
            for question in self._given.questions:
                marked.append(self._marked(question, indexed))
                if on_progress:
                    on_progress(len(marked), len(self._given.questions))
        return self._given.some(marked)

    def close(self) -> None:
        """Closes the file of what was marked."""
        self._rows.close()

    def _marked(self, question: Question, indexed: Indexed) -> Question:
        ready = place(question, indexed.library).question
        if ready.points:
            self.report.num_ready += 1
            return ready
        if question.answerable == "no":
            self.report.num_unanswerable += 1
            return question
        passages = self._passages(question, indexed)
        if not passages:
            self.report.failures[question.id] = "no passage of its documents has a word of it"
            return question
        answer = question.answers[0] if question.answers else ""
        asked = conversation(question)
        key = digest("marked", self._lm.fingerprint, asked, answer, json.dumps(passages, ensure_ascii=False))
        if (known := self._rows.get(key)) is not None:
            found = _Kept.model_validate_json(known)
        else:
            keywords = self._maker.keywords(asked, passages, answer)
            if keywords.failure:
                self.report.failures[question.id] = keywords.failure
                self.report.num_refused += len(keywords.refused)
                return question
            found = _Kept(coarse=keywords.coarse, points=keywords.points, refused=keywords.refused)
            self._rows.put(key, found.model_dump_json())
        self.report.num_marked += 1
        self.report.num_refused += len(found.refused)
        return question.model_copy(update={"points": found.points, "coarse": question.coarse or found.coarse})

    def _passages(self, question: Question, indexed: Indexed) -> Sequence[SourceText]:
        """What the model is shown: passages under the names that they have in the set, in the order of the texts."""
        library = indexed.library
        own = [library.sources[doc] for name in named_sources(question) for doc in library.find(name)]
        if named_sources(question) and not own:
            return []
        words = " ".join([*(turn.text for turn in question.history), question.question, *question.answers[:1]])
        hits = indexed.rag.search(words, self._k, where={"in": ["source", own]} if own else None)
        return list(_located(hits, indexed, self._given.files))


def _located(hits: Sequence[Hit], indexed: Indexed, files: Sequence[Path]) -> Iterator[SourceText]:
    sources = indexed.library.sources
    for chunk in sorted((hit.chunk for hit in hits), key=lambda chunk: (sources[chunk.doc_id], chunk.span)):
        yield SourceText(_name(sources[chunk.doc_id], files), chunk.span.start, chunk.text)


def _name(source: str, files: Sequence[Path]) -> str:
    """A name that holds when the set is copied: the file's path inside the folder it was found in."""
    for root in files:
        for folder in (root, root.resolve()):
            if folder.is_dir() and PurePath(source).is_relative_to(folder):
                return PurePath(source).relative_to(folder).as_posix()
    return PurePath(source).name if files else source
