"""A language model behind an OpenAI-compatible server (vLLM, SGLang, llama.cpp, Ollama, ...). Knows HTTP, no prompt of ours."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar

from rag.core import Completion, Message, Prompt, Span, TokenLogprobs, digest
from rag.endpoint import Endpoint, Refused, without_login
from rag.errors import ModelError
from rag.lm_choices import check_paired
from rag.lm_plain import plain_text, spaced
from rag.lm_sampling import Sampling
from rag.prompt import estimated_tokens
from rag.stops import StopCutter

_T = TypeVar("_T")
_R = TypeVar("_R")

MAX_STOPS = 4  # what the protocol allows; further ones are cut here
TOP_LOGPROBS = 20
PARSED_SURE = 0.98
"""Probability given to the choice that a server without log-probabilities names in words."""


class OpenAILM:
    """``model`` on the server at ``base_url`` (with its ``/v1``).

    ``timeout_seconds``: to connect, and between two reads. ``retries``: further tries after a refused or broken connection, a
    time-out, or a status 408, 409, 425, 429 or 5xx, after ``backoff_seconds * 2**n`` (half of it random) or what Retry-After asks
    for, at most ``max_wait_seconds``; a stream that has begun is not tried again. ``parallel``: requests at a time.
    ``max_context_tokens``: tells the generator how long prompts may be. ``extra``: further fields for the body of chat requests.
    ``temperature`` 0 asks for the likeliest tokens; above it the server draws, and is sent ``top_p`` and ``seed`` too (whether a seed
    repeats a text is the server's affair). Scores are always asked for at temperature 0.

    A prompt that is a ``str`` is sent as one user message. Token counts are the server's; where it sends none they are
    estimated. The key is sent to ``base_url`` alone (redirects are not followed) and appears in no message and no ``repr``.
    All methods raise ``ModelError``, which names the URL and the status.
    """

    def __init__(
        self,
        model: str,
        base_url: str,
        api_key: str | None = None,
        timeout_seconds: float = 60.0,
        retries: int = 3,
        parallel: int = 8,
        max_context_tokens: int | None = None,
        backoff_seconds: float = 0.5,
        max_wait_seconds: float = 30.0,
        extra: Mapping[str, Any] | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> None:
        if parallel < 1:
            raise ValueError(f"parallel={parallel}: must be at least 1")
        self.model = model
        self.parallel = parallel
        self.max_context_tokens = max_context_tokens
        self.extra = dict(extra or {})
        self.sampling = Sampling(temperature, top_p, seed)
        self._url = without_login(base_url)
        self._endpoint = Endpoint(base_url, api_key, timeout_seconds, retries, backoff_seconds, max_wait_seconds)

    def __repr__(self) -> str:
        return f"OpenAILM({self.model!r}, base_url={self._url!r})"

    @property
    def fingerprint(self) -> str:
        """Names the server, the model, the extra fields and how tokens are drawn; not the key."""
        more = [self.sampling.fingerprint] if self.sampling.fingerprint else []
        return "openai:" + digest(self._url, self.model, json.dumps(self.extra, sort_keys=True, default=str), *more)

    @property
    def context_tokens(self) -> int | None:
        """``max_context_tokens``: the protocol has no way to ask the server."""
        return self.max_context_tokens

    def count_tokens(self, prompt: Prompt) -> int:
        """A cautious estimate: the protocol has no way to ask the server."""
        return sum(estimated_tokens(message.content) + 4 for message in _messages(prompt))

    def complete(self, prompts: Sequence[Prompt], *, stop: Sequence[str] = (), max_tokens: int = 256) -> list[Completion]:
        """One request per prompt, ``parallel`` at a time."""
        return self._mapped(lambda prompt: self._complete(prompt, stop, max_tokens), prompts)

    def stream(self, prompt: Prompt, *, stop: Sequence[str] = (), max_tokens: int = 256) -> Iterator[str | Completion]:
        """Server-sent events as they come, then the completion. Raises ``ModelError`` if they end before the answer does."""
        body = self._chat(prompt, stop, max_tokens) | {"stream": True, "stream_options": {"include_usage": True}}
        cutter, text, finish, usage = StopCutter(stop), "", "", dict[str, Any]()
        for event in self._endpoint.events("chat/completions", body):
            if event.get("error"):
                raise ModelError(self._endpoint.said("chat/completions", f"broke off: {_told(event['error'])}"))
            usage = event.get("usage") or usage
            for choice in event.get("choices") or []:
                piece = cutter.push((choice.get("delta") or {}).get("content") or "")
                finish = choice.get("finish_reason") or finish
                text += piece
                if piece:
                    yield piece
            if cutter.stopped:
                break
        if not finish and not cutter.stopped:
            raise ModelError(self._endpoint.said("chat/completions", "broke off before the answer was complete"))
        rest = cutter.finish()
        if rest:
            yield rest
        yield self._completion(prompt, text + rest, "stop" if cutter.stopped else finish, usage)

    def score(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> list[list[float]]:
        """Log-probabilities of the choices as the first token of the answer, ``(prompts, choices)``.

        With ``top_logprobs`` from the server: the sum over listed tokens that spell the choice, or that begin it and no other
        choice; a choice that is not listed gets the probability of the rarest listed token or of what the list leaves over,
        whichever is less (an upper bound). From a server without them: one word is asked for and parsed; the choice it names
        gets 0.98, the others share the rest, and all are equal if it names none.
        """
        if not choices or not all(choice.strip() for choice in choices):
            raise ValueError(f"choices={list(choices)!r}: at least one is needed and none may be empty")
        return self._mapped(lambda prompt: self._score(prompt, choices), prompts)

    def logprobs(self, texts: Sequence[str]) -> list[TokenLogprobs]:
        """From ``/completions`` with ``echo``, which vLLM offers. Raises ``ModelError`` if the server does not echo log-probabilities."""
        return self._mapped(self._logprobs, texts)

    def continuation_logprobs(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[float]:
        """From ``/completions`` with ``echo``: the sum over the tokens that end after the prompt. Raises ``ModelError`` without it.

        No chat template applies there: messages are written as ``System: ...``, ``User: ...``, ``Assistant:``, with a blank before the
        continuation. An empty continuation has 0.
        """
        check_paired(prompts, continuations)
        return self._mapped(lambda pair: self._continuation(*pair), list(zip(prompts, continuations, strict=True)))

    # One prompt each -----------------------------------------------------------------------------------------------------

    def _complete(self, prompt: Prompt, stop: Sequence[str], max_tokens: int, draws: bool = True) -> Completion:
        reply = self._endpoint.post("chat/completions", self._chat(prompt, stop, max_tokens, draws))
        choice = self._choice(reply, "chat/completions")
        cutter = StopCutter(stop)
        text = cutter.push(str((choice.get("message") or {}).get("content") or ""))
        text += cutter.finish()
        return self._completion(
            prompt, text, "stop" if cutter.stopped else choice.get("finish_reason") or "", reply.get("usage") or {}
        )

    def _score(self, prompt: Prompt, choices: Sequence[str]) -> list[float]:
        body = self._chat(prompt, (), 1, draws=False) | {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        try:
            content = (self._choice(self._endpoint.post("chat/completions", body), "chat/completions").get("logprobs") or {}).get(
                "content"
            ) or []
        except Refused as refusal:
            if refusal.status not in (400, 422):
                raise
            content = []  # this server takes no log-probability fields
        if content and content[0].get("top_logprobs"):
            return _listed({str(top["token"]): float(top["logprob"]) for top in content[0]["top_logprobs"]}, choices)
        asked = [*_messages(prompt), Message("user", f"Reply with exactly one of these, and nothing else: {', '.join(choices)}.")]
        return _named(self._complete(asked, (), 16, draws=False).text, choices)

    def _logprobs(self, text: str) -> TokenLogprobs:
        if not text:
            return TokenLogprobs((), ())
        body = {"model": self.model, "prompt": text, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
        listed = self._choice(self._endpoint.post("completions", body), "completions").get("logprobs") or {}
        offsets, values = listed.get("text_offset") or [], listed.get("token_logprobs") or []
        starts = [start for start in offsets if start < len(text)]
        if not starts or starts[0] != 0 or starts != sorted(starts) or len(values) < len(starts):
            raise ModelError(self._endpoint.said("completions", "sent no log-probabilities of the prompt (echo is not supported)"))
        spans = tuple(Span(start, end) for start, end in zip(starts, [*starts[1:], len(text)], strict=True))
        return TokenLogprobs(spans, tuple(math.nan if value is None else float(value) for value in values[: len(starts)]))

    def _continuation(self, prompt: Prompt, continuation: str) -> float:
        before, after = (prompt, continuation) if isinstance(prompt, str) else (plain_text(prompt), spaced(continuation))
        if not before:
            raise ValueError("an empty prompt cannot be continued: the model needs at least one token")
        if not after:
            return 0.0
        found = self._logprobs(before + after)
        values = [value for span, value in zip(found.spans, found.logprobs, strict=True) if span.end > len(before)]
        if any(math.isnan(value) for value in values):
            raise ModelError(self._endpoint.said("completions", "made one token of the prompt and what continues it"))
        return math.fsum(values)

    def _chat(self, prompt: Prompt, stop: Sequence[str], max_tokens: int, draws: bool = True) -> dict[str, Any]:
        if max_tokens < 1:
            raise ValueError(f"max_tokens={max_tokens}: must be at least 1")
        messages = [{"role": role, "content": content} for role, content in _messages(prompt)]
        body: dict[str, Any] = {"model": self.model, "messages": messages, "max_tokens": max_tokens, "temperature": 0}
        if draws and self.sampling.temperature:
            body |= {"temperature": self.sampling.temperature, "top_p": self.sampling.top_p, "seed": self.sampling.seed}
        return body | ({"stop": list(stop[:MAX_STOPS])} if stop else {}) | self.extra

    def _completion(self, prompt: Prompt, text: str, finish: str, usage: Mapping[str, Any]) -> Completion:
        ended: Literal["stop", "length"] = "length" if finish == "length" else "stop"
        num_prompt, num_completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
        return Completion(
            text,
            num_prompt if isinstance(num_prompt, int) else self.count_tokens(prompt),
            num_completion if isinstance(num_completion, int) else estimated_tokens(text),
            ended,
        )

    def _choice(self, reply: Mapping[str, Any], path: str) -> dict[str, Any]:
        choices = reply.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise ModelError(self._endpoint.said(path, "sent an answer without choices"))
        return choices[0]

    def _mapped(self, work: Callable[[_T], _R], items: Sequence[_T]) -> list[_R]:
        if len(items) <= 1 or self.parallel == 1:
            return [work(item) for item in items]
        with ThreadPoolExecutor(min(self.parallel, len(items)), thread_name_prefix="openai-lm") as pool:
            return list(pool.map(work, items))


def _told(error: object) -> str:
    return str(error.get("message", error) if isinstance(error, dict) else error)[:300]


def _messages(prompt: Prompt) -> list[Message]:
    return [Message("user", prompt)] if isinstance(prompt, str) else list(prompt)


def _listed(top: Mapping[str, float], choices: Sequence[str]) -> list[float]:
    """Log-probability of each choice, from the likeliest first tokens."""
    wanted = [choice.strip().casefold() for choice in choices]
    sums = [0.0] * len(choices)
    for token, logprob in top.items():
        begun = token.strip().casefold()
        meant = [i for i, choice in enumerate(wanted) if choice == begun] or [
            i for i, choice in enumerate(wanted) if begun and choice.startswith(begun)
        ]
        if len(meant) == 1:
            sums[meant[0]] += math.exp(logprob)
    left_over = max(1e-9, 1.0 - sum(math.exp(logprob) for logprob in top.values()))
    floor = min(math.log(left_over), min(top.values()))
    return [math.log(each) if each > 0 else floor for each in sums]


def _named(text: str, choices: Sequence[str]) -> list[float]:
    """Log-probability of each choice, from an answer in words."""
    found = {
        i: match.start()
        for i, choice in enumerate(choices)
        if (match := re.search(rf"(?<!\w){re.escape(choice.strip())}(?!\w)", text, re.IGNORECASE))
    }
    if len(choices) == 1:
        return [math.log(PARSED_SURE if found else 1.0 - PARSED_SURE)]
    if not found:
        return [-math.log(len(choices))] * len(choices)
    named = min(found, key=lambda i: found[i])
    other = math.log((1.0 - PARSED_SURE) / (len(choices) - 1))
    return [math.log(PARSED_SURE) if i == named else other for i in range(len(choices))]
