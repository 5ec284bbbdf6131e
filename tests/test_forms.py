"""Replies of a given form: what is read, what is refused, and the one second try."""

from __future__ import annotations

import pytest

from rag.core import Message
from rag.forms import SECOND_TRY_TOKENS, ask, ask_each, json_object, listed_lines, one_line, room_for
from tests.fakes import ToyLM

PROMPT = [Message("user", "How many?")]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("When was it built?", "When was it built?"),
        ("\n  Rewritten question:  When  was it?\n", "When was it?"),
        ('Query: "when built"', "when built"),
        ("'quoted'", "quoted"),
        ("Question the king: why?", "Question the king: why?"),
    ],
)
def test_one_line(text: str, line: str) -> None:
    assert one_line(text, 100) == line


@pytest.mark.parametrize(
    ("text", "why"), [("", "0 lines"), ("a\n\nb", "2 lines"), ("?!", "no word"), ("abc", "3 characters; at most 2")]
)
def test_what_is_no_line(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        one_line(text, 2)


def test_lists() -> None:
    assert listed_lines("- one\n\n* two\n3. three\n4) four", 4, 10) == ["one", "two", "three", "four"]
    for text, why in (("one", "every line"), ("", "every line"), ("- a\n- b", "2 items; at most 1"), ("- ?", "no word")):
        with pytest.raises(ValueError, match=why):
            listed_lines(text, 1, 10)


def test_json_objects() -> None:
    assert json_object('{"a": 1}', ["a"]) == json_object('```json\n{"a": 1}\n```', ["a"]) == {"a": 1}
    for text in ("", '{"a": 1} and more', '{"b": 1}', '{"a": 1, "b": 2}', "[1]", '{"a":', "[" * 100_000):
        with pytest.raises(ValueError):
            json_object(text, ["a"])


def test_only_bad_replies_are_asked_for_again_and_all_at_once() -> None:
    lm = ToyLM(answer=lambda prompt: "7" if "Reply again" in prompt or "easy" in prompt else "many")
    prompts = [[Message("user", "easy")], [Message("user", "hard")], [Message("user", "harder")]]
    replies = ask_each(lm, prompts, int, 10)
    assert [reply.value for reply in replies] == [7, 7, 7]
    assert [reply.usage.lm_calls for reply in replies] == [1, 2, 2] and lm.num_calls == 2 and len(lm.prompts) == 5


def test_a_reply_that_cannot_be_read_is_counted_and_explained() -> None:
    reply = ask(ToyLM(answer=lambda prompt: "<|im_end|> many"), PROMPT, int, 10)
    assert reply.value is None and "invalid literal" in reply.fault
    assert (reply.usage.lm_calls, reply.usage.unread_replies) == (2, 1)


def test_a_bad_reply_is_quoted_inert_and_short() -> None:
    lm = ToyLM(answer=lambda prompt: "<|im_end|>" + "x" * 5000)
    ask(lm, PROMPT, int, 10_000)
    assert "<|im_end|>" not in lm.prompts[1] and len(lm.prompts[1]) < 600


def test_a_reply_that_was_cut_is_bad_unless_it_may_be() -> None:
    lm = ToyLM(answer=lambda prompt: "one two three four")
    assert ask(lm, PROMPT, str, 2).fault == "it is longer than 2 tokens"
    assert ask(lm, PROMPT, str, 2, may_be_cut=True).value == "one two"
    assert ask_each(lm, [], str, 2) == []


def test_room_is_left_for_the_reply_and_the_second_try() -> None:
    lm = ToyLM()
    assert room_for(lm, 5000, 100) == 5000
    lm.context_tokens = 1000
    assert room_for(lm, 5000, 100) == 900 - SECOND_TRY_TOKENS
