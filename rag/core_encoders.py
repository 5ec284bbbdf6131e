"""What turns texts into vectors must be able to do: one vector, one per token, weighted terms; and how they say how far they are.

Part of ``rag.core``; knows no model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


_listener: ContextVar[Callable[[int], None] | None] = ContextVar("listener", default=None)


@contextmanager
def hearing(listener: Callable[[int], None]) -> Iterator[None]:
    """In the block, encoders of this thread tell ``listener`` of every few texts that they have encoded, in numbers of texts.

    Not an argument, because the one who waits (a progress bar) and the one who works (an encoder) are far apart, and nothing in between
    has any use for it. Encoders may be silent.
    """
    before = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(before)


def tell(num_texts: int) -> None:
    """For encoders: so many texts more are encoded. Nobody may be listening."""
    if (listener := _listener.get()) is not None:
        listener(num_texts)


@runtime_checkable
class Encoder(Protocol):
    """Text to one vector each, L2-normalised float32. ``fingerprint`` names the weights and the settings that matter."""

    @property
    def dim(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """``(texts, dim)``."""

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """``(texts, dim)``."""


class TokenBlock(NamedTuple):
    """Some tokens of text number ``row``: ``spans`` int64 ``(n, 2)`` in characters, ``vectors`` float32 ``(n, dim)``."""

    row: int
    spans: NDArray[np.int64]
    vectors: NDArray[np.float32]


@runtime_checkable
class TokenEncoder(Encoder, Protocol):
    """An encoder that also gives the vectors its pooling would average, for late chunking and late interaction."""

    @property
    def pooling(self) -> str:
        """How token vectors become the vector of a text: ``mean``, ``cls``, ..."""

    def token_vectors(
        self, texts: Sequence[str], overlap_tokens: int, task: Literal["query", "document"] = "document"
    ) -> Iterator[TokenBlock]:
        """Every token of every text once, in order; texts above the model's limit are read in overlapping windows.

        ``task`` chooses the prompt that is read before them, if the encoder has any.
        """


class MultiVectorEncoder(Protocol):
    """Text to one vector per kept token, L2-normalised float32, for late interaction (MaxSim)."""

    @property
    def dim(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...

    def encode_documents(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """``(tokens, dim)`` per text; at least one token each."""

    def encode_queries(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """``(tokens, dim)`` per text; at least one token each."""


class SparseVectors(NamedTuple):
    """Texts as weighted terms: text ``r`` has the terms ``term_ids[starts[r]:starts[r + 1]]``, ascending, and their weights.

    ``starts`` int64 ``(texts + 1,)``, ``term_ids`` int32 ``(terms,)``, ``weights`` float32 ``(terms,)``, none below zero.
    """

    starts: NDArray[np.int64]
    term_ids: NDArray[np.int32]
    weights: NDArray[np.float32]


@runtime_checkable
class SparseEncoder(Protocol):
    """Text to some of ``num_terms`` terms. A chunk scores the sum over shared terms of query weight times document weight.

    ``binary``: all terms of one document weigh the same, so that an index stores one weight per chunk.
    """

    @property
    def num_terms(self) -> int: ...

    @property
    def binary(self) -> bool: ...

    @property
    def fingerprint(self) -> str: ...

    def encode_documents(self, texts: Sequence[str]) -> SparseVectors: ...

    def encode_queries(self, texts: Sequence[str]) -> SparseVectors: ...
