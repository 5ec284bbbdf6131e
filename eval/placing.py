"""Where in the texts of an index a question's points and evidence stand. Knows texts by document; knows no stage and no pipeline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from rag.core import Span
from rag.eval.clauses import PlacedClause
from rag.eval.folded import Folded
from rag.eval.keywords import Rarity, completed
from rag.eval.question import Clause, Question
from rag.eval.question_set import Sources, named_sources


class Library:
    """The canonical texts of one set, each folded once.

    ``texts``, ``sources``: by document id. ``unread``: names of files that belong to the set and gave no document. ``is_read``: whether the
    texts were read from files, so that words which are not in them were lost by the reader. Ready documents *are* the text: words which
    are not in those are a fault of the questions.
    """

    def __init__(
        self, texts: Mapping[str, str], sources: Mapping[str, str], *, unread: Iterable[str] = (), is_read: bool = False
    ) -> None:
        self.texts = texts
        self.sources = sources
        self.is_read = is_read
        self._named = Sources(sources)
        self._unread = Sources({name: name for name in unread})
        self._folded: dict[str, Folded] = {}

    def folded(self, doc: str) -> Folded:
        """The text of a document, folded."""
        if doc not in self._folded:
            self._folded[doc] = Folded(self.texts[doc])
        return self._folded[doc]

    @cached_property
    def rarity(self) -> Rarity:
        """How many documents hold a token; of a set of fewer than ten documents, how many paragraphs."""
        if len(self.texts) >= 10:
            return Rarity(self.folded(doc).tokens for doc in self.texts)
        return Rarity(Folded(part).tokens for text in self.texts.values() for part in text.split("\n\n"))

    def find(self, source: str) -> list[str]:
        """Ids of the documents called ``source``."""
        return self._named.find(source)

    def belongs(self, source: str) -> bool:
        """Whether the set has a document or a file of that name, read or not."""
        return bool(self.find(source) or self._unread.find(source))


@dataclass(frozen=True, slots=True)
class PlacedPoint:
    """An information point: it is held where all its clauses are held."""

    text: str
    clauses: tuple[PlacedClause, ...]


@dataclass(frozen=True, slots=True)
class PlacedQuestion:
    """A question with its points in the texts.

    ``unlocated``: points that no stage can be judged by, because the set itself does not hold their words. A point that the reader lost is
    not among them: it has a clause without a place. ``evidence``: (document id, span) of each passage that was found.
    """

    question: Question
    points: tuple[PlacedPoint, ...]
    unlocated: tuple[str, ...]
    evidence: tuple[tuple[str, Span], ...]
    coarse: tuple[Folded, ...]


def place(question: Question, library: Library) -> PlacedQuestion:
    """Finds every point: first at the offsets it gives, if the text there is its own, then by its words (see ``rag.eval.folded``)."""
    own = list(dict.fromkeys(doc for name in named_sources(question) for doc in library.find(name)))
    whole = completed(question, [library.folded(doc) for doc in own], library.rarity) if _is_wanting(question) else question
    points, unlocated = [], []
    for point in whole.points:
        placed = [_placed(clause, question, library) for clause in point.clauses]
        if all(clause.places or _was_lost(given, library) for clause, given in zip(placed, point.clauses, strict=True)):
            points.append(PlacedPoint(point.text, tuple(placed)))
        else:
            unlocated.append(point.text)
    return PlacedQuestion(
        whole, tuple(points), tuple(unlocated), tuple(_evidence(question, library)), tuple(Folded(term) for term in whole.coarse)
    )


def _is_wanting(question: Question) -> bool:
    return not question.coarse or (not question.points and bool(question.evidence))


def _was_lost(clause: Clause, library: Library) -> bool:
    """Whether words that are not in the text may have been in the file."""
    return bool(library.is_read and Folded(clause.text).tokens and (clause.source is None or library.belongs(clause.source)))


def _placed(clause: Clause, question: Question, library: Library) -> PlacedClause:
    if clause.source is not None:
        candidates = library.find(clause.source)
    else:
        candidates = [doc for name in question.sources for doc in library.find(name)] or list(library.texts)
    found = {doc: spans_of(clause.text, clause.start, clause.end, library.folded(doc)) for doc in candidates}
    return PlacedClause(clause.text, {doc: spans for doc, spans in found.items() if spans})


def spans_of(text: str, start: int | None, end: int | None, folded: Folded) -> Sequence[Span]:
    """Everywhere that ``text`` stands, the place it claims first if that is right."""
    spans = folded.find(Folded(text))
    if start is not None and end is not None and folded.text[start:end] == text:
        inside = [span for span in spans if start <= span.start and span.end <= end]
        claimed = inside[0] if inside else Span(start, end)
        return [claimed, *(span for span in spans if span != claimed)]
    return spans


def _evidence(question: Question, library: Library) -> Iterable[tuple[str, Span]]:
    for each in question.evidence:
        for doc in library.find(each.source):
            text = library.texts[doc]
            if each.start is not None and each.end is not None and text[each.start : each.end] == each.text:
                yield doc, Span(each.start, each.end)
            elif spans := library.folded(doc).find(Folded(each.text)):
                yield doc, spans[0]
