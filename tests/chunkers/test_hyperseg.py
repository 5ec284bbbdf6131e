"""Transcripts cut where the talk turns to other words."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.chunkers.hyperseg import HypersegChunker, dip_depths
from rag.chunkers.hyperseg import _words as hyperseg_words
from rag.chunkers.hypervectors import window_cosines, window_cosines_reference, word_vector
from rag.chunkers.turns import turns
from rag.core import Document, Span
from rag.tokenizer import WordTokenizer, counts_of

WORDS = WordTokenizer()
TOPICS = ("budget money costs price spending", "weather rain snow storm wind", "music guitar piano violin song")


def talk(turns_per_topic: int = 12) -> tuple[str, list[str]]:
    """A talk of two people about three things, and the first line about each but the first."""
    chance = np.random.default_rng(5)
    lines: list[str] = []
    firsts: list[str] = []
    for topic in TOPICS:
        words = topic.split()
        for number in range(turns_per_topic):
            lines.append(f"{'Ann' if number % 2 else 'Bob'}: {' '.join(chance.choice(words, 4))} turn{len(lines)}")
        firsts.append(lines[-turns_per_topic])
    return "\n".join(lines), firsts[1:]


def cut(text: str, **options: Any) -> list[str]:
    return [chunk.text for chunk in HypersegChunker(WORDS, **options).chunk(Document("id", "source", text))]


@given(
    st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=5) | st.just(["a", "b"] * 200), max_size=8),
    st.integers(1, 4),
    st.sampled_from([64, 72, 520]),
)
@settings(max_examples=60, deadline=None)
def test_cosines_equal_the_reference(units: list[list[str]], window: int, dimension: int) -> None:
    found = window_cosines(units, window, dimension)
    assert found.shape == (max(len(units) - 1, 0),)
    assert found == pytest.approx(window_cosines_reference(units, window, dimension), abs=1e-12)


def test_vectors_are_those_of_every_other_run() -> None:
    assert word_vector("duck", 64).tolist() == word_vector("duck", 128)[:64].tolist()
    assert "".join("+" if bit > 0 else "-" for bit in word_vector("duck", 64)[:16]) == "--+--+-++-+-+++-"


def test_cosines_are_nearly_those_of_counts() -> None:
    units = [["a", "a", "b"], ["a", "c"], ["b", "c", "c"], ["d"], ["a", "d", "d"]]
    counts = np.array([[unit.count(word) for word in "abcd"] for unit in units], dtype=float)
    exact = [left @ right / np.linalg.norm(left) / np.linalg.norm(right) for left, right in pairwise(counts)]
    assert window_cosines(units, 1, 10_000) == pytest.approx(exact, abs=0.05)


def test_depths_are_measured_from_the_peaks() -> None:
    assert dip_depths(np.array([0.9, 0.5, 0.7, 0.8, 0.2, 0.6])) == pytest.approx([0, 0.7, 0.1, 0, 1.0, 0], abs=1e-12)
    assert dip_depths(np.array([0.5, 0.5, 0.5])).tolist() == [0, 0, 0]
    assert dip_depths(np.zeros(0)).tolist() == []


def test_topics_are_parted() -> None:
    text, firsts = talk()
    found = cut(text, min_tokens=0, window=5)
    assert [chunk.splitlines()[0] for chunk in found[1:]] == firsts


@pytest.mark.parametrize(("max_tokens", "min_tokens"), [(40, 10), (100, 40), (25, 0)])
def test_sizes_are_kept_and_turns_stay_whole(max_tokens: int, min_tokens: int) -> None:
    text, _ = talk()
    found = cut(text, max_tokens=max_tokens, min_tokens=min_tokens)
    counts = counts_of(WORDS, found)
    assert min_tokens <= min(counts) and max(counts) <= max_tokens
    assert "\n".join(found) == text


def test_a_limit_cuts_at_the_deepest_dips() -> None:
    text, firsts = talk(12)
    found = cut(text, max_tokens=7 * 12, min_tokens=0, amount=50.0, window=5)  # the amount alone makes no boundary
    assert [chunk.splitlines()[0] for chunk in found[1:]] == firsts


def test_a_long_turn_is_cut_between_sentences() -> None:
    text = "\n".join(f"{name}: I like rain. I like snow. I like wind." for name in "ABABAB")
    assert all(chunk.endswith(".") for chunk in cut(text, max_tokens=9, min_tokens=0))


def test_prose_goes_by_sentences() -> None:
    text = "Ducks swim. Ducks fly. Ducks eat. Bread bakes. Bread rises. Bread cools."
    assert cut(text, window=2, min_tokens=0, amount=0.5) == [
        "Ducks swim. Ducks fly. Ducks eat.",
        "Bread bakes. Bread rises. Bread cools.",
    ]


def test_names_of_speakers_are_not_what_is_talked_about() -> None:
    text = "Minutes\nAnn Lee: the rain, Ann!\nBob Ray: RAIN?\nAnn Lee: \nBob Ray: no storm"
    labels = [Span(*turn) for turn in turns(text)]
    starts = [0, *(label.start for label in labels)]
    assert hyperseg_words(text, starts, labels) == [["minutes"], ["rain", "ann"], ["rain"], [], ["storm"]]


@pytest.mark.parametrize(
    ("text", "starts"),
    [
        ("Ann: hi\nBob: ho\nAnn: hm\nBob: ha", [0, 8, 16, 24]),
        ("Minutes\n\nAnn: hi\n  more of it\n Bob: ho\nAnn: hm\n[00:12] Bob: ha", [9, 31, 39, 47]),
        ("Ann: hi\nBob: ho\nAnn: hm", []),
        ("Name: a\nTime: b\nPlace: c\nTopic: d", []),
        ("Prose goes on.\n" * 20 + "Ann: hi\nBob: ho\nAnn: hm\nBob: ha", []),
        ("http://a.b\nhttp://a.c\nhttp://a.d\nhttp://a.e", []),
        ("", []),
    ],
)
def test_turns(text: str, starts: list[int]) -> None:
    assert [turn.start for turn in turns(text)] == starts
    assert all(text[turn.said - 1] == ":" for turn in turns(text))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window=0: must be at least 1"),
        ({"dimension": 100}, "dimension=100: must be a multiple of 8"),
        ({"dimension": 8}, "dimension=8"),
        ({"amount": -1}, "amount=-1"),
        ({"max_context_tokens": -1}, "max_context_tokens=-1"),
        ({"max_tokens": 0}, "max_tokens=0"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HypersegChunker(WORDS, **options)
