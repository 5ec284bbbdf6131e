"""What is in a question set and what is wrong with it. Knows questions and texts; asks no pipeline any question."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.table import Table

from rag.eval.folded import Folded
from rag.eval.placing import Library, PlacedQuestion, place
from rag.eval.question import Clause, Evidence, Question
from rag.eval.question_set import QuestionSet, named_sources
from rag.pipeline import Rag

DUPLICATE_ID, DUPLICATE, MISSING, MISMATCH = (
    "ids that stand twice",
    "questions that stand twice",
    "missing documents",
    "spans that do not match",
)
UNLOCATED, EMPTY, UNREAD = "points that cannot be located", "empty sets", "files that cannot be read"
_READ_ONLY = {"models": {"tokenizer": {"use": "words"}}, "chunker": {"use": "fixed"}, "indexes": {"words": {"use": "bm25"}}}


@dataclass(slots=True)
class SetReport:
    """``counts``: table -> (row, number). ``faults``: kind -> a line each; empty if nothing is wrong."""

    name: str
    counts: dict[str, list[tuple[str, int]]]
    faults: dict[str, list[str]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def tables(self) -> Iterator[Table]:
        """The counts, for a terminal."""
        for title, rows in self.counts.items():
            table = Table(title, "number", title=None, show_edge=False)
            table.columns[1].justify = "right"
            for name, number in rows:
                table.add_row(name, f"{number:,}")
            yield table


def check_set(given: QuestionSet) -> SetReport:
    """Reads every document (files through the readers, with default limits) and locates every span and point."""
    library, unread = library_of(given)
    placed = [place(question, library) for question in given.questions]
    faults = {
        EMPTY: list(_empty(given, library)),
        DUPLICATE_ID: _twice(question.id for question in given.questions),
        DUPLICATE: _twice(" ".join([*(turn.text for turn in each.history), each.question]) for each in given.questions),
        UNREAD: unread,
        MISSING: list(_missing(given.questions, library)),
        MISMATCH: [line for question in given.questions for line in _mismatches(question, library)],
        UNLOCATED: [line for each in placed for line in _unlocated(each)],
    }
    return SetReport(
        given.name, _counts(given, library, placed), {kind: lines for kind, lines in faults.items() if lines}, given.remarks
    )


def with_points(given: QuestionSet) -> QuestionSet:
    """The set with points and coarse terms made from its evidence where it had none (``rag.eval.keywords``)."""
    library, _ = library_of(given)
    return given.some([place(question, library).question for question in given.questions])


def library_of(given: QuestionSet) -> tuple[Library, list[str]]:
    """The texts of a set, and a line for each file that cannot be read."""
    if not given.files:
        return Library({each.id: each.text for each in given.documents}, {each.id: each.source for each in given.documents}), []
    with TemporaryDirectory(prefix="rag-eval-") as folder, Rag.open(Path(folder) / "index", _READ_ONLY) as opened:
        report = opened.ingest(given.files)
        with opened.catalog.reading() as read:
            rows = list(read.documents())
            texts = {row.id: read.document(row.id).text for row in rows}
    unread = [f"{refusal.source}: {refusal.reason}" for refusal in report.failed]
    sources = {row.id: row.source for row in rows}
    return Library(texts, sources, unread=[refusal.source for refusal in report.failed], is_read=True), unread


def _empty(given: QuestionSet, library: Library) -> Iterator[str]:
    if not given.questions:
        yield f"{given.name} has no questions"
    if not library.sources:
        yield f"{given.name} has no documents"


def _twice(names: Iterable[str]) -> list[str]:
    return [f"{name!r}, {number} times" for name, number in Counter(names).items() if number > 1]


def _missing(questions: Iterable[Question], library: Library) -> Iterator[str]:
    first: dict[str, str] = {}
    number: Counter[str] = Counter()
    for question in questions:
        for name in named_sources(question):
            if not library.belongs(name):
                first.setdefault(name, question.id)
                number[name] += 1
    for name, question_id in first.items():
        yield f"{name!r}, named by {number[name]} questions ({question_id!r} first)"


def _mismatches(question: Question, library: Library) -> Iterator[str]:
    pieces: list[tuple[str | None, Evidence | Clause]] = [(evidence.source, evidence) for evidence in question.evidence]
    pieces += [(clause.source, clause) for point in question.points for clause in point.clauses]
    for source, each in pieces:
        for doc in library.find(source) if source else ():
            text = library.texts[doc]
            if each.start is not None and each.end is not None and text[each.start : each.end] != each.text:
                said = f"characters {each.start} to {each.end} of {source!r} are not {_short(each.text)}"
                yield f"question {question.id!r}: {said}; {_nearest(each.text, library.folded(doc))}"
            elif each.start is None and not library.folded(doc).holds(Folded(each.text)) and isinstance(each, Evidence):
                yield f"question {question.id!r}: {source!r} does not hold {_short(each.text)}; {_nearest(each.text, library.folded(doc))}"


def _nearest(text: str, document: Folded) -> str:
    """Where ``text`` stands by its words, or the place that has the longest run of its words."""
    wanted = Folded(text)
    if found := document.find(wanted):
        return f"it stands at {found[0].start} to {found[0].end}"
    same = difflib.SequenceMatcher(None, document.tokens, wanted.tokens, autojunk=False).find_longest_match()
    if same.size == 0:
        return "none of its words stand there"
    start, end = document.spans[same.a].start, document.spans[same.a + same.size - 1].end
    return f"the nearest is {_short(document.text[start:end])} at {start} to {end}"


def _unlocated(placed: PlacedQuestion) -> Iterator[str]:
    for text in placed.unlocated:
        yield f"question {placed.question.id!r}: {_short(text)}"
    for point in placed.points:
        for clause in point.clauses:
            if not clause.places:
                yield f"question {placed.question.id!r}: the files as read do not hold {_short(clause.text)}"


def _counts(given: QuestionSet, library: Library, placed: list[PlacedQuestion]) -> dict[str, list[tuple[str, int]]]:
    questions = given.questions
    holds = [
        ("questions", len(questions)), ("documents", len(library.sources)), ("with reference answers", sum(bool(each.answers) for each in questions)),
        ("with evidence", sum(bool(each.evidence) for each in questions)), ("with judged documents", sum(bool(each.relevant) for each in questions)),
        ("with a history", sum(bool(each.history) for each in questions)), ("with information points", sum(bool(each.points) for each in placed)),
        ("information points", sum(len(each.points) for each in placed)), ("with coarse terms", sum(bool(each.coarse) for each in placed)),
    ]  # fmt: skip
    types = Counter(question.type for question in questions)
    answerable = Counter(str(question.answerable) for question in questions)
    return {given.name: holds, "type": types.most_common(), "answerable": answerable.most_common()}


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
