"""The table of methods: grades, paired differences, shares. Methods here are plain functions."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from rag.eval.kvquality import Answered, as_json, measure, normalised


@dataclass(frozen=True)
class Question:
    kind: str
    answer: str


QUESTIONS = [Question("direct" if number % 2 else "two-hop", f"otter {number}") for number in range(40)]


def says(wrong_every: int) -> object:
    def ask(number: int) -> Answered:
        text = "a goose" if wrong_every and number % wrong_every == 0 else f" The otter {number}."
        return Answered(text, 0.1 * bool(wrong_every), 3, 20, 4.5)

    return ask


def test_grades_kinds_and_differences() -> None:
    quality = measure(QUESTIONS, {("full", 1.0): says(0), ("reuse", 0.0): says(2), ("blend", 0.15): says(10)})  # type: ignore[dict-item]
    full, reuse, blend = quality.rows()
    assert (full.exact_match.mean, reuse.exact_match.mean, blend.exact_match.mean) == (1.0, 0.5, 0.9)
    assert reuse.by_kind == {"direct": 1.0, "two-hop": 0.0}
    assert full.against_full is None and reuse.against_full is not None and reuse.against_full.mean == -0.5
    assert reuse.share_computed == 0.15 and reuse.kl_nats.mean == pytest.approx(0.1)
    assert quality.gain(("blend", 0.15), ("reuse", 0.0)).mean == pytest.approx(0.4)
    assert as_json(quality.rows())[1]["against_full"]["mean"] == -0.5


def test_case_articles_and_the_full_stop_do_not_count() -> None:
    assert normalised(" The  Otter. ") == normalised("otter") != normalised("otters")


def test_nothing_to_measure_is_said() -> None:
    with pytest.raises(ValueError, match="0 questions"):
        measure([], {("full", 1.0): says(0)})  # type: ignore[dict-item]
