"""Sentences and content words."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag import sentences as sentences_room
from rag.core import Span
from rag.sentences import content_words, sentence_spans, stem


def cut(text: str) -> list[str]:
    return [span.of(text) for span in sentence_spans(text)]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One is here. Two is there!", ["One is here.", "Two is there!"]),
        ("Dr. Smith paid $3.5 million. He left.", ["Dr. Smith paid $3.5 million.", "He left."]),
        ("# Head\n\nBody text.", ["# Head", "Body text."]),
        ("- one\n- two\n3. three", ["- one", "- two", "3. three"]),
        ("name | kg\nmallard | 1.1", ["name | kg", "mallard | 1.1"]),
        (
            "A line that was wrapped by its author because it was\ntoo long. The next one.",
            ["A line that was wrapped by its author because it was\ntoo long.", "The next one."],
        ),
        (
            "\u5854\u9ad8\u4e09\u767e\u7c73\u3002\u5b83\u5f88\u65e7\u3002",
            ["\u5854\u9ad8\u4e09\u767e\u7c73\u3002", "\u5b83\u5f88\u65e7\u3002"],
        ),
        ("  \n \n", []),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    assert cut(text) == sentences


@given(st.text(alphabet="aB1 .!?\n|-#\u3002\u00e9", max_size=200))
def test_spans_ascend_and_leave_out_only_white_space(text: str) -> None:
    spans = sentence_spans(text)
    position = 0
    for start, end in [*spans, Span(len(text), len(text))]:
        assert position <= start <= end
        assert not text[position:start].strip()
        position = end
    assert all(span.of(text) == span.of(text).strip() != "" for span in spans)


def reference(text: str) -> list[str]:
    """What ``sentence_spans`` must equal: every block through the library, every piece trimmed."""
    import nupunkt

    found = []
    for block in sentences_room._blocks(text):
        body = block.of(text)
        pieces = nupunkt.sent_spans(body) if set(".!?") & set(body) else [(0, len(body))]
        for start, end in pieces:
            found += [part.strip() for part in re.split(r"(?<=[。！？])(?![。！？」』”）])", body[start:end])]
    return [sentence for sentence in found if sentence]


ENDINGS = st.sampled_from(
    [
        "Dr. Yu",
        "it is 3.14",
        "He left.",
        'end."',
        "why?!",
        "(one.)",
        "...",
        ". . .",
        "\u2026",
        "a.b.",
        "。",
        "！」",
        "\n",
        " ",
        "  ",
        "A",
    ]
)


@given(st.lists(ENDINGS, max_size=12).map(" ".join) | st.lists(ENDINGS, max_size=12).map("".join))
def test_asking_the_library_less_changes_nothing(text: str) -> None:
    assert cut(text) == reference(text)


def test_content_words_weigh_numbers_and_names() -> None:
    assert content_words("Ducks met Ada Lovelace in 1843.") == {"duck": 1.0, "met": 1.0, "ada": 2.0, "lovelac": 2.0, "1843": 3.0}
    assert content_words("1,200 ducks") == content_words("1200 duck")
    assert content_words("It is the one that was.") == {}


@pytest.mark.parametrize(("one", "other"), [("batteries", "Battery"), ("walked", "walks"), ("uses", "uses")])
def test_forms_of_a_word_share_a_root(one: str, other: str) -> None:
    assert stem(one) == stem(other)
