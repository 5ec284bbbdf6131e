"""Makes a test set from the documents of an index: passage by passage, checked, resumable. Knows the pipeline and ``synth_*``.

With a language model: questions of several types with evidence word for word, from one passage or two, and questions that the
documents do not answer. Without one: ``heading`` and ``cloze`` questions (``rag.eval.synth_cloze``). A question is kept if it is
new, and if a search for it brings its evidence back among the ``k`` best; an unanswerable one, if the model finds no answer in the
``k`` best either. Whatever was dropped is counted by reason. Seeded: with the same index, settings and model replies the same
questions come out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from rag.core import LM, PUBLIC, Document, Encoder, digest
from rag.eval import synth_cloze, synth_lm
from rag.eval.judge_replies import Unusable
from rag.eval.keyword_lm import SourceText
from rag.eval.question import Question
from rag.eval.synth_draft import Draft, Dropped
from rag.eval.synth_filter import SeenQuestions, brought_back
from rag.eval.synth_passages import Passage, drawn, partner, passages
from rag.eval.synth_store import Finished, SynthFolder
from rag.pipeline import Rag

MAX_CHECKED = 5
"""Hits that an unanswerable question is checked against by the language model, one by one."""


class SynthReport(BaseModel):
    """What a run made, all sittings of it together. ``dropped``: reason -> tasks. ``num_refused``: clauses that no source held."""

    model_config = ConfigDict(extra="forbid")
    num_questions: int
    by_type: dict[str, int]
    dropped: dict[str, int]
    num_refused: int
    num_tasks: int
    num_passages: int


class Synthesis:
    """One run over ``rag`` into the folder ``out``.

    ``lm``: writes questions; ``None``: heading and cloze questions. ``types``: in turn, one per passage; default: all that the way
    knows. ``k``: depth of the round trip. ``encoder``: finds questions that say the same in other words.

    Raises ``ValueError`` for unknown types and numbers below 1, and what ``SynthFolder`` raises.
    """

    def __init__(
        self,
        rag: Rag,
        out: Path,
        lm: LM | None = None,
        *,
        num_questions: int = 50,
        types: Sequence[str] = (),
        k: int = 10,
        seed: int = 0,
        encoder: Encoder | None = None,
    ) -> None:
        known = tuple(synth_lm.TYPES) if lm else synth_cloze.TYPES
        if unknown := [name for name in types if name not in known]:
            without = "" if lm else " without a language model"
            raise ValueError(f"unknown type {unknown[0]!r}; allowed{without}: {', '.join(known)}")
        for name, value in (("num_questions", num_questions), ("k", k)):
            if value < 1:
                raise ValueError(f"{name} is {value}; allowed: 1 or more")
        self._rag, self._lm, self._k, self._seed = rag, lm, k, seed
        self._num_questions = num_questions
        self._types = tuple(types) or known
        settings = {"seed": seed, "k": k, "types": list(self._types), "lm": lm.fingerprint if lm else None}
        self._writer = synth_lm.QuestionWriter(lm) if lm else None
        self._passages = passages(rag)
        if not self._passages:
            raise ValueError(f"the index {rag.folder} has no passage of prose that everybody may read")
        self._frequency = synth_cloze.document_frequency(self._passages)
        self.store = SynthFolder(out, settings)
        self._seen = SeenQuestions(encoder)
        for question in self.store.questions:
            self._seen.add(question.question)

    def run(self, on_progress: Callable[[int, int], None] | None = None) -> SynthReport:
        """Goes on until there are enough questions or no passages. ``on_progress`` hears (questions, of how many)."""
        for task, kind, passage in self._tasks():
            if len(self.store.questions) >= self._num_questions:
                break
            if task in self.store.finished:
                continue
            draft = self._drafted(kind, passage)
            found = self._checked(draft) if isinstance(draft, Draft) else draft
            if isinstance(found, Dropped):
                done = Finished(task=task, type=kind, dropped=found.reason, told=found.told[:300], num_refused=found.num_refused)
                self.store.finish(done)
                continue
            question = _question(task, found)
            self.store.finish(Finished(task=task, type=kind, kept=[question.id], num_refused=found.num_refused), question)
            self._seen.add(question.question)
            if on_progress:
                on_progress(len(self.store.questions), self._num_questions)
        return self.report()

    def report(self) -> SynthReport:
        """What there is so far."""
        kinds = [each.type for each in self.store.finished.values() if each.kept]
        return SynthReport(
            num_questions=len(self.store.questions),
            by_type={kind: kinds.count(kind) for kind in self._types},
            dropped=dict(self.store.dropped.most_common()),
            num_refused=self.store.num_refused,
            num_tasks=len(self.store.finished),
            num_passages=len(self._passages),
        )

    def write_corpus(self) -> None:
        """Writes all documents that everybody may read beside the questions."""

        def documents() -> Iterator[Document]:
            with self._rag.catalog.reading() as read:
                for row in read.documents():
                    if PUBLIC in row.principals:
                        yield read.document(row.id)

        self.store.write_corpus(documents())

    def _tasks(self) -> Iterator[tuple[str, str, Passage]]:
        """Every passage once with each type: in the first round each type has its share of the passages, and so on."""
        order = list(drawn(self._passages, self._seed))
        for turn in range(len(self._types)):
            for number, passage in enumerate(order):
                kind = self._types[(number + turn) % len(self._types)]
                yield digest("task", passage.key, kind)[:16], kind, passage

    def _drafted(self, kind: str, passage: Passage) -> Draft | Dropped:
        if self._writer is None:
            is_heading = kind == "heading"
            return synth_cloze.heading_draft(passage) if is_heading else synth_cloze.cloze_draft(passage, self._frequency)
        sources = [passage.located]
        if synth_lm.NUM_PASSAGES.get(kind, 1) > 1:
            other = partner(self._rag, passage, self._passages)
            if other is None:
                return Dropped("no second passage")
            sources.append(other.located)
        return self._writer.write(kind, sources)

    def _checked(self, draft: Draft) -> Draft | Dropped:
        """The draft, or why it is not kept."""
        if self._seen.is_repeated(draft.question):
            return Dropped("repeated", draft.question, draft.num_refused)
        if draft.answerable == "no":
            return self._without_answer(draft)
        if not brought_back(self._rag, draft.question, draft.evidence, self._k):
            return Dropped("evidence not brought back", draft.question, draft.num_refused)
        return draft

    def _without_answer(self, draft: Draft) -> Draft | Dropped:
        assert self._writer is not None
        hits = self._rag.search(draft.question, self._k)[:MAX_CHECKED]
        if not hits:
            return Dropped("about nothing that is there", draft.question)
        answered = self._writer.is_answered(draft.question, [SourceText("", 0, hit.chunk.text) for hit in hits])
        if isinstance(answered, Unusable):
            return Dropped("no usable reply", answered.reason)
        return Dropped("answerable after all", draft.question) if answered else draft


def _question(task: str, draft: Draft) -> Question:
    sources = tuple(dict.fromkeys(each.source for each in draft.evidence))
    return Question(
        id=f"synth-{task}",
        question=draft.question,
        type=draft.type,
        answers=draft.answers,
        sources=sources,
        evidence=draft.evidence,
        coarse=draft.coarse,
        points=draft.points,
        relevant=dict.fromkeys(sources, 1),
        answerable=draft.answerable,
    )
