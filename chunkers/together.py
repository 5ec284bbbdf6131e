"""Many pieces of work that ask one model, side by side, so that it answers full batches. Knows generators; no model and no text.

A piece of work is a generator: it yields a list of questions, is sent one answer for each of them, and may go on to ask. So an
algorithm is written once, for one document, and runs over many.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, TypeVar

Q = TypeVar("Q")
R = TypeVar("R")

Work = Generator[Sequence[Q], Any, R]
"""Yields questions, is sent as many answers (a list, or the rows of an array), returns what it made of them."""


def together(works: Iterable[Work[Q, R]], answer: Callable[[list[Q]], Any]) -> list[R]:
    """What each of ``works`` returns, in their order.

    All that wait for answers are answered by one call of ``answer``, which gives one answer per question, in order; it is never called
    without a question. ``works`` are started one after the other, so the first questions of all of them are held at once.
    """
    made: dict[int, R] = {}
    waiting: dict[int, tuple[Work[Q, R], Sequence[Q]]] = {}

    def advance(number: int, work: Work[Q, R], answers: Any) -> None:
        try:
            waiting[number] = (work, work.send(answers))
        except StopIteration as stop:
            made[number] = stop.value

    for number, work in enumerate(works):
        advance(number, work, None)
    while waiting:
        asked = [(number, work, len(own)) for number, (work, own) in waiting.items()]
        questions = [question for _, own in waiting.values() for question in own]
        waiting.clear()
        answers = answer(questions) if questions else []
        del questions  # they may be all of the text, several times over
        first = 0
        for number, work, num_questions in asked:
            advance(number, work, answers[first : first + num_questions])
            first += num_questions
    return [made[number] for number in sorted(made)]
