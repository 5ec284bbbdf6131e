"""The words that pass between a language model and whoever asks it; import them from ``rag.core``. Knows no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from rag.core import Span


class Message(NamedTuple):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


Prompt = str | Sequence[Message]


@dataclass(frozen=True, slots=True)
class Completion:
    """What a language model wrote for one prompt; ``finish`` is ``stop`` (it ended) or ``length`` (cut at max_tokens)."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish: Literal["stop", "length"]


class TokenLogprobs(NamedTuple):
    """Per token of a text: its characters and its natural-log probability given all tokens before it (first: nan)."""

    spans: tuple[Span, ...]
    logprobs: tuple[float, ...]


class LM(Protocol):
    """A causal language model. Rerankers, generators, LLM chunkers and judges see only this."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def context_tokens(self) -> int | None:
        """Tokens of prompt and completion together that the model takes; ``None`` if nobody knows."""
        ...

    def count_tokens(self, prompt: Prompt) -> int:
        """The length of a prompt in the model's tokens, as exactly as the model tells."""
        ...

    def complete(self, prompts: Sequence[Prompt], *, stop: Sequence[str] = (), max_tokens: int = 256) -> list[Completion]:
        """The continuation of each prompt, greedy unless the model was told to draw; the text ends before the first stop string."""
        ...

    def stream(self, prompt: Prompt, *, stop: Sequence[str] = (), max_tokens: int = 256) -> Iterator[str | Completion]:
        """The pieces of ``complete([prompt])`` as they come, then the ``Completion``."""
        ...

    def score(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> list[list[float]]:
        """Natural-log probability of each choice as the continuation of each prompt, ``(prompts, choices)``.

        All spellings of a choice (with and without a leading space, capitalised) count together.
        """
        ...

    def logprobs(self, texts: Sequence[str]) -> list[TokenLogprobs]: ...

    def continuation_logprobs(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[float]:
        """Natural-log probability that prompt ``i`` is continued by ``continuations[i]``: the sum over its tokens, ``(prompts,)``.

        As it is written: no other spellings, no end. Raises ``ValueError`` if there is not one continuation per prompt, ``ModelError``
        if a server does not tell.
        """
        ...


@dataclass(frozen=True, slots=True)
class OpenModel:
    """A language model in this process, for those who work on its keys and values: network, tokenizer, and how text becomes ids.

    ``render`` writes messages as the model wants them; ``encode`` turns text into ids and adds none; ``start_ids`` come before rendered
    text, ``end_ids`` end an answer, so do ``stops``. ``inert`` takes their force from special tokens in quoted text. Whoever
    runs the network holds ``lock``.
    """

    network: Any
    tokenizer: Any
    render: Callable[[Sequence[Message]], str]
    encode: Callable[[str], list[int]]
    inert: Callable[[str], str]
    start_ids: tuple[int, ...]
    end_ids: frozenset[int]
    stops: tuple[str, ...]
    lock: Any


class LocalLM(LM, Protocol):
    """A language model that can be opened."""

    def opened(self) -> OpenModel:
        """Its parts, loaded. Raises ``ModelError`` if it cannot be loaded."""
        ...
