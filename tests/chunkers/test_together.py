from __future__ import annotations

import numpy as np
import pytest

from rag.chunkers.together import Work, together


def asking(name: str, num_rounds: int, per_round: int = 1) -> Work[str, list[str]]:
    heard: list[str] = []
    for number in range(num_rounds):
        heard += yield [f"{name}{number}.{place}" for place in range(per_round)]
    return heard


def test_questions_of_one_round_make_one_call() -> None:
    calls: list[list[str]] = []

    def answer(questions: list[str]) -> list[str]:
        calls.append(questions)
        return [question.upper() for question in questions]

    assert together([asking("a", 2), asking("b", 0), asking("c", 1, 2)], answer) == [["A0.0", "A1.0"], [], ["C0.0", "C0.1"]]
    assert calls == [["a0.0", "c0.0", "c0.1"], ["a1.0"]]


def test_rows_of_an_array_are_answers() -> None:
    def work(number: int) -> Work[int, float]:
        vectors = yield [number, number + 1]
        return float(vectors.sum())

    assert together([work(1), work(5)], lambda questions: np.array(questions, dtype=np.float32)[:, None]) == [3.0, 11.0]


def test_nobody_is_asked_nothing() -> None:
    def never(questions: list[str]) -> list[str]:
        raise LookupError("asked")

    assert together([], never) == []
    assert together([asking("a", 2, 0), asking("b", 0)], never) == [[], []]


def test_what_goes_wrong_with_one_is_heard_by_all() -> None:
    def broken() -> Work[str, None]:
        yield ["a question"]
        raise ValueError("no sense in this answer")

    with pytest.raises(ValueError, match="no sense"):
        together([asking("a", 1), broken()], lambda questions: questions)
