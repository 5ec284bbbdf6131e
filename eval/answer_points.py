"""Which information points an answer has. Knows the words of an answer and its citations; asks no model.

Answers rephrase, so this is a rule and no truth. A clause is in an answer if one of these holds:

- its words stand in the text one after the other (see ``rag.eval.folded``);
- the text has at least ``MIN_RECALL`` of its content words (roots, each counted once), and it has three or more of them;
- verified citations cover one of its places in the source: citations of one document that touch count as one.

A point is in an answer if all its clauses are. All points are, if the question has a short reference answer (at most
``MAX_REFERENCE_TOKENS`` tokens) and the text gives it: equal to it, holding its words one after the other, or sharing an F1 of tokens of at least
``MIN_F1`` with it. For ``yes``, ``no``, ``maybe`` the text must begin with the word. An abstention has no point.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from rag.core import Answer, Span
from rag.eval.clauses import PlacedClause, Places, regions
from rag.eval.folded import Folded
from rag.eval.placing import PlacedQuestion
from rag.sentences import content_words

MIN_RECALL = 0.8
MIN_WORDS = 3
MAX_REFERENCE_TOKENS = 6
MIN_F1 = 0.8
_MARK = re.compile(r"\[\d{1,3}\]")
_VERDICTS = frozenset({"yes", "no", "maybe"})


def points_in_answer(placed: PlacedQuestion, answer: Answer, texts: Mapping[str, str]) -> list[bool]:
    """Per point of ``placed`` whether the answer has it. ``texts``: document id -> text, of the cited documents at least."""
    if answer.abstained:
        return [False] * len(placed.points)
    text = unmarked(answer.text)
    if any(gives(text, reference) for reference in placed.question.answers):
        return [True] * len(placed.points)
    cited = regions([(citation.doc_id, Span(citation.start, citation.end)) for citation in answer.citations], texts)
    folded, words = Folded(text), frozenset(content_words(text))
    return [all(_has(clause, folded, words, cited) for clause in point.clauses) for point in placed.points]


def _has(clause: PlacedClause, text: Folded, words: frozenset[str], cited: Places) -> bool:
    if text.holds(Folded(clause.text)) or clause.held(cited):
        return True
    wanted = content_words(clause.text).keys()
    return len(wanted) >= MIN_WORDS and len(wanted & words) >= MIN_RECALL * len(wanted)


def gives(text: str, reference: str) -> bool:
    """Whether ``text`` gives the short answer ``reference``; never for a long one.

    >>> gives("It has 308 points.", "308 points"), gives("No, not one.", "no"), gives("There was no reason.", "no")
    (True, True, False)
    """
    wanted, said = Folded(reference), Folded(text)
    if not 0 < len(wanted.tokens) <= MAX_REFERENCE_TOKENS:
        return False
    if set(wanted.tokens) <= _VERDICTS:
        return said.tokens[:1] == wanted.tokens[:1]
    return said.holds(wanted) or token_f1(said, wanted) >= MIN_F1


def token_f1(one: Folded, other: Folded) -> float:
    """Harmonic mean of the shares of tokens that each has of the other, repeats counted; 0 if one has none."""
    common = sum((Counter(one.tokens) & Counter(other.tokens)).values())
    return 2 * common / (len(one.tokens) + len(other.tokens)) if common else 0.0


def unmarked(text: str) -> str:
    """An answer without its citation marks."""
    return _MARK.sub("", text)
