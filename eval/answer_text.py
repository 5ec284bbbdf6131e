"""Question and answer as they are measured: with the turns before, without citation marks. Knows no source and no measure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rag.citations import Mark, MarkParser
from rag.eval.question import Question
from rag.sentences import sentence_spans

_LETTER = re.compile(r"[^\W_]")


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of an answer and the numbers of the marks in it or right behind it."""

    text: str
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AnswerText:
    """``plain``: the answer without marks. ``sentences``: those that hold a letter or a digit, in order."""

    plain: str
    sentences: tuple[Sentence, ...]


def parsed_answer(text: str) -> AnswerText:
    """The parts of an answer. A mark belongs to the sentence it stands in, or to the one that ended before it.

    >>> [tuple(each.numbers) for each in parsed_answer("It is tall [1]. It is old. [2][3] It is grey.").sentences]
    [(1,), (2, 3), ()]
    """
    parser = MarkParser()
    plain, marks = "", list[tuple[int, Mark]]()
    for piece in [*parser.feed(text), *parser.finish()]:
        if isinstance(piece, Mark):
            marks.append((len(plain), piece))
        else:
            plain += piece
    spans = sentence_spans(plain)
    cited: list[list[int]] = [[] for _ in spans]
    for position, mark in marks:
        before = [number for number, span in enumerate(spans) if span.start < position]
        if before:
            cited[before[-1]] += mark.numbers
    whole = zip((span.of(plain) for span in spans), cited, strict=True)
    kept = tuple(Sentence(sentence, tuple(dict.fromkeys(numbers))) for sentence, numbers in whole if _LETTER.search(sentence))
    return AnswerText(plain.strip(), kept)


def conversation(question: Question) -> str:
    """The question; after the turns before it, a line each, if there are any: ``And how old is it?`` alone asks nothing."""
    turns = [f"{turn.role}: {' '.join(turn.text.split())}" for turn in question.history]
    return "\n".join([*turns, f"user: {question.question}"]) if turns else question.question
