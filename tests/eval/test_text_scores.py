"""Text scores: by hand to four digits, against the published rule on ASCII text, and the laws they keep."""

from __future__ import annotations

import re
import string
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.errors import MissingExtra
from rag.eval.text_scores import (
    _bleu,
    bleu,
    bleu_counts,
    bleu_of,
    corpus_bleu,
    exact_match,
    is_unspaced,
    rouge_l,
    text_scores,
    token_f1,
    words_of,
)

TOKYO = "\u6771\u4eac\u306f\u5927\u304d\u3044"  # Tokyo is big


@pytest.mark.parametrize(
    ("answer", "references", "expected"),
    [
        # common words: tower, is, 330, tall: 2 * 4 / (5 + 5)
        ("The tower is 330 m tall.", ["tower is 330 metres tall"], 0.8),
        ("Paris", ["London", "in Paris, France"], 0.5),  # 2 * 1 / (1 + 3)
        ("an apple", ["Apple"], 1.0),
        ("no", ["yes"], 0.0),
        ("", ["the"], 1.0),
        ("", ["yes"], 0.0),
        ("a a b b b", ["b b c"], 0.6667),  # articles gone: 2 * 2 / (3 + 3)
        (TOKYO + "\u3002", [TOKYO[:4]], 0.8),  # 2 * 4 / (6 + 4)
    ],
)
def test_f1_by_hand(answer: str, references: list[str], expected: float) -> None:
    assert round(token_f1(answer, references), 4) == expected


@pytest.mark.parametrize(
    ("answer", "references", "expected"),
    [
        ("The Eiffel Tower!", ["eiffel tower"], 1.0),
        ("\u00abEiffel\u00bb \u2014 Tower", ["Eiffel Tower"], 1.0),
        ("Eiffel Towers", ["Eiffel Tower"], 0.0),
        (TOKYO + "\u3002", [TOKYO], 1.0),
        ("$3", ["3"], 1.0),  # string.punctuation holds the dollar sign
    ],
)
def test_exact_match_by_hand(answer: str, references: list[str], expected: float) -> None:
    assert exact_match(answer, references) == expected


@pytest.mark.parametrize(
    ("answer", "references", "expected"),
    [
        ("police kill gunman", ["police killed the gunman"], 0.6667),  # police, gunman: P 2/3, R 2/3
        ("gunman kill police", ["police killed the gunman"], 0.3333),
        ("x", ["y", "x"], 1.0),
        (TOKYO, [TOKYO[:2] + TOKYO[3:]], 0.9091),  # 2 * 5 / (6 + 5)
    ],
)
def test_rouge_l_by_hand(answer: str, references: list[str], expected: float) -> None:
    assert round(rouge_l(answer, references), 4) == expected


@pytest.mark.parametrize(
    ("answer", "references", "expected"),
    [
        ("the cat sat on the mat", ["the cat sat on a mat"], 0.5373),  # (5/6 * 3/5 * 2/4 * 1/3) ** 1/4
        ("a b c d", ["a b x y"], 0.3195),  # (2/4 * 1/3 * 1/(2*2) * 1/(4*1)) ** 1/4: smoothed
        ("a b", ["a b"], 1.0),  # two orders are all there is
        ("a b c", ["a b c d"], 0.7165),  # three orders, brevity exp(1 - 4/3)
        ("a b c", ["x y", "a b c"], 1.0),
        ("", ["x"], 0.0),
    ],
)
def test_sentence_bleu_by_hand(answer: str, references: list[str], expected: float) -> None:
    assert round(bleu(answer, references), 4) == expected


def test_corpus_bleu_by_hand() -> None:
    # (5 + 2)/(6 + 2), (3 + 1)/(5 + 1), 2/4, 1/3
    assert round(corpus_bleu(["the cat sat on the mat", "a b"], [["the cat sat on a mat"], ["a b", "a b c"]]), 4) == 0.5584


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.text(alphabet="ab .", max_size=20)] * 2), min_size=1, max_size=5))
def test_counts_of_answers_add_up_to_corpus_bleu(pairs: list[tuple[str, str]]) -> None:
    answers, references = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    added = [sum(column) for column in zip(*bleu_counts(answers, references), strict=True)]
    assert bleu_of(added) == pytest.approx(corpus_bleu(answers, [[reference] for reference in references]), abs=1e-9)


@settings(max_examples=100)
@given(st.text(alphabet=string.printable), st.text(alphabet=string.printable))
def test_on_ascii_it_is_the_rule_of_squad(answer: str, reference: str) -> None:
    def squad(text: str) -> list[str]:
        bare = "".join(each for each in text.lower() if each not in set(string.punctuation))
        return re.sub(r"\b(a|an|the)\b", " ", bare).split()

    assert words_of(answer) == squad(answer)
    shared = sum((Counter(squad(answer)) & Counter(squad(reference))).values())
    precision, recall = shared / max(1, len(squad(answer))), shared / max(1, len(squad(reference)))
    both_empty = not squad(answer) and not squad(reference)
    expected = float(both_empty) if not shared else 2 * precision * recall / (precision + recall)
    assert token_f1(answer, [reference]) == pytest.approx(expected)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60), st.lists(st.text(max_size=60), min_size=1, max_size=3))
def test_all_scores_lie_between_0_and_1_and_more_references_never_hurt(answer: str, references: list[str]) -> None:
    alone = text_scores(answer, references[:1])
    for name, value in text_scores(answer, references).items():
        assert 0.0 <= value <= 1.0 + 1e-9
        if name != "bleu" or is_unspaced(references[0]) == is_unspaced(" ".join(references)):
            assert value >= alone[name]


def test_references_are_a_list_of_some() -> None:
    with pytest.raises(ValueError, match="references must be a list of at least one text, not \\[\\]"):
        token_f1("x", [])
    with pytest.raises(ValueError, match="not 'x'"):
        exact_match("x", "x")
    with pytest.raises(ValueError, match="1 answers cannot be paired with 2"):
        corpus_bleu(["x"], [["x"], ["y"]])


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    _bleu.cache_clear()
    with pytest.raises(MissingExtra, match="sacrebleu"):
        bleu("x", ["x"])
