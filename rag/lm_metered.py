"""A language model that counts what it is asked and stops at a budget. Knows the protocol, no model and no price list."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields

from rag.core import LM, Completion, Prompt, TokenLogprobs
from rag.errors import BudgetExceeded
from rag.lm_wrapped import WrappedLM


@dataclass(frozen=True, slots=True)
class LMUsage:
    """What was asked so far. ``calls`` of the model's methods with ``prompts`` in all, their tokens, those that were written, the
    seconds spent waiting (of all threads together), and what it cost. Two of them can be added and subtracted.
    """

    calls: int = 0
    prompts: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    cost: float = 0.0

    @property
    def tokens(self) -> int:
        """Of prompts and completions together."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: LMUsage) -> LMUsage:
        return LMUsage(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def __sub__(self, other: LMUsage) -> LMUsage:
        return LMUsage(*(getattr(self, field.name) - getattr(other, field.name) for field in fields(self)))


class MeteredLM(WrappedLM):
    """``inner``, counted. ``usage()`` is a snapshot; the difference of two is what lay between them.

    ``max_calls``, ``max_tokens`` (of prompts and completions) and ``max_seconds``: a call that would begin when one of them is used up
    raises ``BudgetExceeded`` and does not reach ``inner``; the call before it may end beyond the budget. Prompts are counted when a call
    begins, whether or not it succeeds; their tokens by ``inner.count_tokens``, corrected by what a completion says of itself. Prices are
    per million tokens in any currency. Choices and continuations count as prompt tokens; the choices of a ``score`` count once
    per prompt as one token. Safe for several threads. Raises ``ValueError`` for a budget or a price below zero.
    """

    def __init__(
        self,
        inner: LM,
        max_calls: int | None = None,
        max_tokens: int | None = None,
        max_seconds: float | None = None,
        price_per_million_prompt_tokens: float = 0.0,
        price_per_million_completion_tokens: float = 0.0,
    ) -> None:
        limits = {"max_calls": max_calls, "max_tokens": max_tokens, "max_seconds": max_seconds}
        prices = {
            "price_per_million_prompt_tokens": price_per_million_prompt_tokens,
            "price_per_million_completion_tokens": price_per_million_completion_tokens,
        }
        for name, value in (limits | prices).items():
            if value is not None and not value >= 0:
                raise ValueError(f"{name}={value}: must not be negative")
        super().__init__(inner)
        self._limits = limits
        self._prompt_price = price_per_million_prompt_tokens / 1e6
        self._completion_price = price_per_million_completion_tokens / 1e6
        self._used = LMUsage()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"MeteredLM({self.inner!r})"

    def usage(self) -> LMUsage:
        """What was asked so far, at one moment."""
        with self._lock:
            return self._used

    # The protocol --------------------------------------------------------------------------------------------------------

    def complete(self, prompts: Sequence[Prompt], *, stop: Sequence[str] = (), max_tokens: int = 256) -> list[Completion]:
        """As the inner model; what the completions say of their own tokens is what counts."""
        with self._call(prompts) as counted:
            found = self.inner.complete(prompts, stop=stop, max_tokens=max_tokens)
            self._written(found, counted)
        return found

    def stream(self, prompt: Prompt, *, stop: Sequence[str] = (), max_tokens: int = 256) -> Iterator[str | Completion]:
        """As the inner model. The seconds are those of waiting for pieces, not of what the reader does between them."""
        with self._call([prompt]) as counted:
            pieces = iter(self.inner.stream(prompt, stop=stop, max_tokens=max_tokens))
        while True:
            with self._timed():
                piece = next(pieces, None)
            if piece is None:
                return
            if isinstance(piece, Completion):
                self._written([piece], counted)
            yield piece

    def score(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> list[list[float]]:
        """As the inner model."""
        with self._call(prompts, more_tokens=len(prompts)):
            return self.inner.score(prompts, choices)

    def logprobs(self, texts: Sequence[str]) -> list[TokenLogprobs]:
        """As the inner model."""
        with self._call(texts):
            return self.inner.logprobs(texts)

    def continuation_logprobs(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[float]:
        """As the inner model."""
        with self._call(prompts, more_tokens=sum(self.inner.count_tokens(text) for text in continuations if text)):
            return self.inner.continuation_logprobs(prompts, continuations)

    # Counting ------------------------------------------------------------------------------------------------------------

    @contextmanager
    def _call(self, prompts: Sequence[Prompt], more_tokens: int = 0) -> Iterator[int]:
        """Counts a call and times it; gives the tokens that were counted for its prompts."""
        self._check_budget()  # before the tokens are counted, which may load the model
        counted = sum(self.inner.count_tokens(prompt) for prompt in prompts if prompt) + more_tokens
        with self._lock:
            self._check(self._used)
            self._used += LMUsage(1, len(prompts), counted, 0, 0.0, counted * self._prompt_price)
        with self._timed():
            yield counted

    @contextmanager
    def _timed(self) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self._used += LMUsage(seconds=time.perf_counter() - started)

    def _written(self, completions: Sequence[Completion], counted: int) -> None:
        difference = sum(each.prompt_tokens for each in completions) - counted
        written = sum(each.completion_tokens for each in completions)
        cost = difference * self._prompt_price + written * self._completion_price
        with self._lock:
            self._used += LMUsage(0, 0, difference, written, 0.0, cost)

    def _check_budget(self) -> None:
        with self._lock:
            self._check(self._used)

    def _check(self, used: LMUsage) -> None:
        for name, spent in (("max_calls", used.calls), ("max_tokens", used.tokens), ("max_seconds", used.seconds)):
            limit = self._limits[name]
            if limit is not None and spent >= limit:
                raise BudgetExceeded(name, spent, limit)
