"""Information points and topic terms from marked evidence, by words alone. Knows sentences and word counts; asks no language model.

A point is a sentence of the evidence; its clauses are the sentence cut at strong marks (``;`` ``:`` a dash) and at commas that part long
pieces, so that a page number in the middle of a sentence costs nothing. After CoFE-RAG (arXiv 2410.12248), where a language model writes
both lists; here every word of a clause is the source's own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from rag.core import Span
from rag.eval.folded import Folded
from rag.eval.question import Clause, Evidence, Point, Question
from rag.sentences import STOP_WORDS, content_words, sentence_spans

MIN_CLAUSE_WORDS = 4
MAX_COARSE_TERMS = 2
_MARK = re.compile(r"[;:\u2014\u2013\uff1b\uff1a]\s+|[\uff1b\uff1a\uff0c]|,\s+")
_WORD = re.compile(r"[^\W_]+(?:[-'\u2019][^\W_]+)*")


def points_of(evidence: Sequence[Evidence]) -> tuple[Point, ...]:
    """One point per sentence of the evidence that says something, each once, with offsets where the evidence has them.

    A sentence says something if it has two content words or more, or a number; if none does, each sentence is a point.
    """
    sentences = [(each, span) for each in evidence for span in sentence_spans(each.text)]
    telling = [(each, span) for each, span in sentences if _tells(span.of(each.text))]
    points = [Point(clauses=_clauses(each, span)) for each, span in telling or sentences]
    return tuple({point.text: point for point in points}.values())


def _tells(sentence: str) -> bool:
    words = content_words(sentence)
    return len(words) >= 2 or any(word[0].isdigit() for word in words)


def _clauses(evidence: Evidence, sentence: Span) -> tuple[Clause, ...]:
    cuts = [sentence.start]
    for match in _MARK.finditer(evidence.text, sentence.start, sentence.end):
        before, after = evidence.text[cuts[-1] : match.start()], evidence.text[match.end() : sentence.end]
        if min(len(Folded(before).tokens), len(Folded(after).tokens)) >= MIN_CLAUSE_WORDS:
            cuts.append(match.end())
    clauses = []
    for start, end in zip(cuts, [*cuts[1:], sentence.end], strict=True):
        text = evidence.text[start:end]
        solid = text.strip().rstrip(",;:\u2014\u2013\uff0c\uff1b\uff1a").rstrip()
        first = start + len(text) - len(text.lstrip())
        place: dict[str, int] = {}
        if evidence.start is not None:
            place = {"start": evidence.start + first, "end": evidence.start + first + len(solid)}
        if solid:
            clauses.append(Clause(text=solid, source=evidence.source, **place))
    return tuple(clauses)


class Rarity:
    """In how many pieces of text each token stands. ``pieces``: the tokens of each."""

    def __init__(self, pieces: Iterable[Iterable[str]]) -> None:
        self._counts: Counter[str] = Counter()
        for tokens in pieces:
            self._counts.update(set(tokens))

    def __call__(self, token: str) -> int:
        return self._counts[token]


def coarse_terms(question: str, sources: Sequence[Folded], rarity: Rarity) -> tuple[str, ...]:
    """At most ``MAX_COARSE_TERMS`` words of the question that its sources hold: names before others, the rarest first."""
    names = {word for word, weight in content_words(question).items() if weight == 2.0}
    candidates: dict[str, tuple[bool, int, int]] = {}
    for match in _WORD.finditer(question):
        word = match.group()
        tokens = Folded(word).tokens
        if len(tokens) > 2 and all(len(token) == 1 for token in tokens):  # a script without blanks: the word is a whole phrase
            for term in _shared_runs(word, sources):
                candidates.setdefault(term, (True, max(map(rarity, Folded(term).tokens)), match.start()))
        elif (
            word.casefold() in STOP_WORDS
            or len(word) < 3
            or word.isdigit()
            or not any(source.vocabulary.issuperset(tokens) for source in sources)
        ):
            continue
        else:
            is_name = bool(content_words(word).keys() & names)
            candidates.setdefault(word, (not is_name, max(map(rarity, tokens), default=0), match.start()))
    ordered = sorted(candidates, key=lambda word: candidates[word])
    return tuple({Folded(word).line: word for word in reversed(ordered)}.values())[::-1][:MAX_COARSE_TERMS]


def _shared_runs(word: str, sources: Sequence[Folded]) -> list[str]:
    """For scripts without blanks: the longest stretches of ``word``, of two to eight characters, that a source holds."""
    runs: list[str] = []
    start = 0
    while start < len(word) - 1:
        lengths = (length for length in range(min(8, len(word) - start), 1, -1))
        held = (each for each in lengths if any(source.holds(Folded(word[start : start + each])) for source in sources))
        length = next(held, 0)
        if length:
            runs.append(word[start : start + length])
        start += max(length, 1)
    return runs


def completed(question: Question, sources: Sequence[Folded], rarity: Rarity) -> Question:
    """The question with points and coarse terms where it had none and has evidence. ``sources``: the texts it rests on."""
    added: Mapping[str, object] = {
        **({} if question.points or not question.evidence else {"points": points_of(question.evidence)}),
        **({} if question.coarse or not sources else {"coarse": coarse_terms(question.question, sources, rarity)}),
    }
    return question.model_copy(update=dict(added)) if added else question
