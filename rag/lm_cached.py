"""A language model whose answers are kept on disk, so that the same question is paid for once. Knows the protocol and a store."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from rag.core import LM, Completion, Prompt, Span, TokenLogprobs, digest
from rag.lm_answers import FORMAT_VERSION, AnswerStore
from rag.lm_choices import check_paired
from rag.lm_wrapped import WrappedLM

_A = TypeVar("_A")


class CachedLM(WrappedLM):
    """``inner``, asked only what it was not asked before. Answers live in an SQLite file in ``folder``, at most ``max_bytes`` of them.

    An answer belongs to the fingerprint of ``inner`` (weights, server, sampling), the method, the prompt and everything else that was
    passed. What is missing goes to ``inner`` in one call. Several threads and processes may use one folder. ``hits`` and ``misses``
    count prompts. Prompts are not stored, only their digests; answers are, in the clear. Put ``rag.lm_metered.MeteredLM`` inside to
    meter what is paid for, around to meter what is asked for.

    Raises ``ValueError`` for a ``max_bytes`` below 1, ``ModelError`` at first use if the file is damaged or not ours.
    """

    def __init__(self, inner: LM, folder: str | Path, max_bytes: int = 1 << 30) -> None:
        if max_bytes < 1:
            raise ValueError(f"max_bytes={max_bytes}: must be at least 1")
        super().__init__(inner)
        self.store = AnswerStore(Path(folder), max_bytes)
        self.hits = 0
        self.misses = 0
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"CachedLM({self.inner!r}, folder={str(self.store.path.parent)!r})"

    def complete(self, prompts: Sequence[Prompt], *, stop: Sequence[str] = (), max_tokens: int = 256) -> list[Completion]:
        """As the inner model."""
        keys = self._keys("complete", [(prompt, [list(stop), max_tokens]) for prompt in prompts])
        ask = partial(self.inner.complete, stop=stop, max_tokens=max_tokens)
        return self._answered(keys, lambda missing: ask([prompts[i] for i in missing]), _written_completion, _read_completion)

    def stream(self, prompt: Prompt, *, stop: Sequence[str] = (), max_tokens: int = 256) -> Iterator[str | Completion]:
        """As the inner model. A completion that is there comes in one piece; a stream that is read to its end is kept."""
        (key,) = self._keys("complete", [(prompt, [list(stop), max_tokens])])
        kept = self.store.get([key])
        self._count(len(kept), 1 - len(kept))
        if kept:
            completion = _read_completion(json.loads(kept[key]))
            if completion.text:
                yield completion.text
            yield completion
            return
        for piece in self.inner.stream(prompt, stop=stop, max_tokens=max_tokens):
            if isinstance(piece, Completion):
                self.store.put({key: json.dumps(_written_completion(piece))})
            yield piece

    def score(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> list[list[float]]:
        """As the inner model. A choice's score may depend on the others, so all of them are part of what was asked."""
        keys = self._keys("score", [(prompt, list(choices)) for prompt in prompts])
        return self._answered(keys, lambda missing: self.inner.score([prompts[i] for i in missing], choices), list, list)

    def logprobs(self, texts: Sequence[str]) -> list[TokenLogprobs]:
        """As the inner model."""
        keys = self._keys("logprobs", [(text, None) for text in texts])
        return self._answered(keys, lambda missing: self.inner.logprobs([texts[i] for i in missing]), list, _read_logprobs)

    def continuation_logprobs(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[float]:
        """As the inner model."""
        check_paired(prompts, continuations)
        keys = self._keys("continuation", list(zip(prompts, continuations, strict=True)))

        def ask(missing: Sequence[int]) -> list[float]:
            return self.inner.continuation_logprobs([prompts[i] for i in missing], [continuations[i] for i in missing])

        return self._answered(keys, ask, float, float)

    # What is kept --------------------------------------------------------------------------------------------------------

    def _answered(
        self,
        keys: Sequence[bytes],
        ask: Callable[[Sequence[int]], Sequence[_A]],
        write: Callable[[_A], Any],
        read: Callable[[Any], _A],
    ) -> list[_A]:
        """The answers under ``keys``; ``ask`` is given the numbers of those that are missing, equal ones once, or not called at all."""
        if not keys:
            return []
        kept = self.store.get(keys)
        found = {key: read(json.loads(text)) for key, text in kept.items()}
        missing = {key: i for i, key in reversed(list(enumerate(keys))) if key not in found}
        self._count(sum(key in kept for key in keys), sum(key not in kept for key in keys))
        if missing:
            asked = sorted(missing.values())
            fresh = dict(zip((keys[i] for i in asked), ask(asked), strict=True))
            self.store.put({key: json.dumps(write(answer)) for key, answer in fresh.items()})
            found |= fresh
        return [found[key] for key in keys]

    def _count(self, hits: int, misses: int) -> None:
        with self._lock:
            self.hits += hits
            self.misses += misses

    def _keys(self, method: str, asked: Sequence[tuple[Prompt, object]]) -> list[bytes]:
        """A key per prompt and whatever else decides its answer."""
        common = (str(FORMAT_VERSION), self.inner.fingerprint, method)
        return [bytes.fromhex(digest(*common, json.dumps(_said(prompt)), json.dumps(more))) for prompt, more in asked]


def _said(prompt: Prompt) -> object:
    return prompt if isinstance(prompt, str) else [[role, content] for role, content in prompt]


def _written_completion(completion: Completion) -> list[Any]:
    return [completion.text, completion.prompt_tokens, completion.completion_tokens, completion.finish]


def _read_completion(stored: list[Any]) -> Completion:
    return Completion(*stored)


def _read_logprobs(stored: list[Any]) -> TokenLogprobs:
    spans, values = stored
    return TokenLogprobs(tuple(Span(*span) for span in spans), tuple(values))
