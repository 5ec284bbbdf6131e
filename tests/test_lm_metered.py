"""Counting and stopping, with a model that answers by rule."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from rag.core import Completion, Prompt
from rag.errors import BudgetExceeded, RagError
from rag.lm_metered import LMUsage, MeteredLM
from tests.fakes import ToyLM


class Slow(ToyLM):
    """Takes a while for each piece."""

    def stream(self, prompt: Prompt, *, stop: Sequence[str] = (), max_tokens: int = 256) -> Iterator[str | Completion]:
        for piece in super().stream(prompt, stop=stop, max_tokens=max_tokens):
            time.sleep(0.01)
            yield piece


def test_every_method_is_counted() -> None:
    inner = ToyLM()
    lm = MeteredLM(inner, price_per_million_prompt_tokens=1e6, price_per_million_completion_tokens=3e6)
    completions = lm.complete(["one two three", "four"], max_tokens=3)
    first = lm.usage()
    written = sum(each.completion_tokens for each in completions)
    told = sum(each.prompt_tokens for each in completions)  # what the model says, not what it was estimated at
    assert (first.calls, first.prompts, first.prompt_tokens, first.completion_tokens) == (1, 2, told, written)
    assert first.cost == pytest.approx(told + 3 * written) and first.tokens == told + written
    lm.score(["one two", "three"], ("yes", "no"))
    scored = lm.usage() - first
    assert (scored.calls, scored.prompts, scored.prompt_tokens, scored.completion_tokens, scored.cost) == (1, 2, 3 + 2, 0, 5.0)
    second = lm.usage()
    lm.logprobs(["one two three four", ""])
    lm.continuation_logprobs(["one"], ["two three"])
    spent = lm.usage() - second
    assert (spent.calls, spent.prompts, spent.prompt_tokens, spent.completion_tokens) == (2, 3, 4 + 3, 0)
    assert inner.num_calls == lm.usage().calls == 4


def test_answers_are_those_of_the_inner_model() -> None:
    lm, plain = MeteredLM(ToyLM(context_tokens=77)), ToyLM()
    assert lm.complete(["a b"], stop=["x"], max_tokens=2) == plain.complete(["a b"], stop=["x"], max_tokens=2)
    assert lm.score(["a"], ("x", "y")) == plain.score(["a"], ("x", "y"))
    assert lm.continuation_logprobs(["a"], ["a"]) == plain.continuation_logprobs(["a"], ["a"])
    assert list(lm.stream("a b")) == list(plain.stream("a b"))
    assert (lm.fingerprint, lm.context_tokens, lm.count_tokens("a b")) == ("toy", 77, 2)
    assert "ToyLM" in repr(lm)


def test_usages_add_and_subtract() -> None:
    one, two = LMUsage(1, 2, 3, 4, 5.0, 6.0), LMUsage(10, 20, 30, 40, 50.0, 60.0)
    assert one + two == LMUsage(11, 22, 33, 44, 55.0, 66.0) and (one + two) - two == one
    assert LMUsage() + one == one


def test_a_stream_counts_the_waiting_and_not_the_reading() -> None:
    lm = MeteredLM(Slow(answer=lambda _: "one two three"))
    for _ in lm.stream("a b"):
        time.sleep(0.05)
    usage = lm.usage()
    assert (usage.calls, usage.completion_tokens) == (1, 3)
    assert usage.seconds >= 4 * 0.01
    before = usage.seconds
    stream = lm.stream("a b")
    next(stream)
    waited = lm.usage().seconds - before
    time.sleep(0.2)
    assert lm.usage().seconds - before == waited


@pytest.mark.parametrize(
    ("limits", "name", "allowed"),
    [({"max_calls": 3}, "max_calls", 3), ({"max_tokens": 7}, "max_tokens", 3), ({"max_calls": 0}, "max_calls", 0), ({"max_seconds": 0.0}, "max_seconds", 0)],
)  # fmt: skip
def test_the_call_that_would_begin_beyond_the_budget_is_refused(limits: dict[str, Any], name: str, allowed: int) -> None:
    inner = ToyLM()
    lm = MeteredLM(inner, **limits)
    for _ in range(allowed):
        lm.logprobs(["one two three"])
    for call in (
        lambda: lm.logprobs(["one"]),
        lambda: lm.complete(["one"]),
        lambda: next(lm.stream("one")),
        lambda: lm.score(["one"], ("yes", "no")),
        lambda: lm.continuation_logprobs(["one"], ["two"]),
    ):
        with pytest.raises(BudgetExceeded, match=f"{name}=") as caught:
            call()
        assert isinstance(caught.value, RagError) and caught.value.limit_name == name
    assert inner.num_calls == allowed == lm.usage().calls


def test_threads_keep_to_one_budget() -> None:
    inner = ToyLM()
    lm = MeteredLM(inner, max_calls=50)
    refused: list[BudgetExceeded] = []

    def ask() -> None:
        for _ in range(20):
            try:
                lm.logprobs(["a b"])
            except BudgetExceeded as error:
                refused.append(error)

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (lm.usage().calls, lm.usage().prompt_tokens, len(refused)) == (50, 100, 50)


def test_a_call_that_fails_was_begun() -> None:
    lm = MeteredLM(ToyLM(judge=lambda text: [float(text)]))
    with pytest.raises(ValueError, match="a b"):
        lm.score(["a b"], ("yes",))
    assert (lm.usage().calls, lm.usage().prompt_tokens) == (1, 3)


@pytest.mark.parametrize("options", [{"max_calls": -1}, {"max_seconds": float("nan")}, {"price_per_million_prompt_tokens": -2.0}])
def test_bad_options_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        MeteredLM(ToyLM(), **options)
