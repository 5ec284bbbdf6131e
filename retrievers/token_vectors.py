"""The token vectors of any encoder as a multi-vector encoder. Knows characters and tokens; knows no model and no index.

An encoder that was trained to average its token vectors was not trained for late interaction, but its token vectors are there,
offline too. The vectors have been read in their context; special tokens and prompts have none.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rag.core import TokenEncoder, digest, tell
from rag.errors import ConfigError, ModelError

LeaveOut = Literal["punctuation", "nothing"]


class TokenVectorsEncoder:
    """One L2-normalised vector per token, read by ``encoder``; long texts in windows that share ``overlap_tokens``.

    ``leave_out="punctuation"``: tokens of documents that are nothing but punctuation or blanks have no vector, unless the whole
    text is; queries keep every token. A text without any token has one vector, that of the whole text. ``max_query_tokens``: where
    queries end; it bounds the cost of a search. Raises ``ConfigError`` for options out of range and for an encoder whose token
    vectors are not there or not what it compares, ``ModelError`` if they are not finite.
    """

    def __init__(
        self,
        encoder: TokenEncoder,
        leave_out: LeaveOut = "punctuation",
        overlap_tokens: int = 64,
        max_query_tokens: int = 512,
    ) -> None:
        if leave_out not in get_args(LeaveOut):
            raise ConfigError(f"leave_out {leave_out!r} is not one of {', '.join(get_args(LeaveOut))}")
        for name, value, least in (("overlap_tokens", overlap_tokens, 0), ("max_query_tokens", max_query_tokens, 1)):
            if value < least:
                raise ConfigError(f"{name} must be at least {least}, not {value}")
        # A method is asked for, and no property: those would load the model.
        if not callable(getattr(encoder, "token_vectors", None)):
            raise ConfigError(f"token vectors need an encoder that gives them; {type(encoder).__name__} does not")
        self.encoder = encoder
        self.leave_out: LeaveOut = leave_out
        self.overlap_tokens = overlap_tokens
        self.max_query_tokens = max_query_tokens

    @property
    def dim(self) -> int:
        return self.encoder.dim

    @property
    def fingerprint(self) -> str:
        """Of what is stored of a document; the cap on queries is not part of it."""
        return digest("token vectors", self.encoder.fingerprint, self.leave_out, str(self.overlap_tokens))

    def encode_documents(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """``(tokens, dim)`` per text; at least one token each."""
        spans, vectors = self._read(texts, "document")
        if self.leave_out == "punctuation":
            for row, text in enumerate(texts):
                telling = says_something(text, spans[row])
                if telling.any():
                    vectors[row] = vectors[row][telling]
        return self._at_least_one(texts, vectors, "document")

    def encode_queries(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """``(tokens, dim)`` per text; at least one token each, at most ``max_query_tokens``."""
        _, vectors = self._read(texts, "query")
        return self._at_least_one(texts, [some[: self.max_query_tokens] for some in vectors], "query")

    def _read(
        self, texts: Sequence[str], task: Literal["query", "document"]
    ) -> tuple[list[NDArray[np.int64]], list[NDArray[np.float32]]]:
        """Per text the characters of its tokens, ``(tokens, 2)``, and their unit vectors, ``(tokens, dim)``."""
        self._check_space()
        spans: list[list[NDArray[np.int64]]] = [[np.empty((0, 2), np.int64)] for _ in texts]
        vectors: list[list[NDArray[np.float32]]] = [[np.empty((0, self.dim), np.float32)] for _ in texts]
        num_read = 0
        for block in self.encoder.token_vectors(texts, self.overlap_tokens, task):
            tell(block.row - num_read)
            num_read = block.row
            spans[block.row].append(block.spans)
            if block.vectors.shape[1] != self.dim:
                raise ConfigError(f"the encoder's token vectors have {block.vectors.shape[1]} numbers, its vectors {self.dim}")
            vectors[block.row].append(_unit(block.vectors))
        return [np.concatenate(some) for some in spans], [np.concatenate(some) for some in vectors]

    def _check_space(self) -> None:
        pooling = self.encoder.pooling
        if not pooling.isidentifier() or pooling == "none":  # "mean + Dense"
            raise ConfigError(
                f"the encoder's pooling is {pooling!r}, so what it compares is not made of its token vectors alone; allowed: encoders "
                "that end with their pooling (mean, cls, max, lasttoken, ...)"
            )

    def _at_least_one(
        self, texts: Sequence[str], vectors: list[NDArray[np.float32]], task: Literal["query", "document"]
    ) -> list[NDArray[np.float32]]:
        empty = [row for row, some in enumerate(vectors) if not len(some)]
        if empty:
            encode = self.encoder.encode_queries if task == "query" else self.encoder.encode_documents
            for row, vector in zip(empty, _unit(encode([texts[row] for row in empty])), strict=True):
                vectors[row] = vector[None]
        return vectors


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """A vector of zeros stays one: it is near nothing."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(lengths).all():
        raise ModelError("the encoder gives token vectors that are not finite: are its weights damaged?")
    unit: NDArray[np.float32] = np.divide(vectors, lengths, where=lengths > 0, out=np.zeros(vectors.shape, np.float32))
    return unit


def says_something(text: str, spans: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which tokens have a character that is neither blank nor punctuation (Unicode's P, and all of ASCII's), ``(tokens,)``."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    known, place = np.unique(codes, return_inverse=True)
    telling = np.array([not _is_punctuation(chr(code)) for code in known.tolist()], np.bool_)
    before = np.concatenate([[0], np.cumsum(telling[place])])
    found: NDArray[np.bool_] = before[spans[:, 1]] > before[spans[:, 0]]
    return found


def _is_punctuation(character: str) -> bool:
    ascii_mark = character.isascii() and not character.isalnum()  # "$" and "+" too, as in the skip-lists of ColBERT
    category = unicodedata.category(character)
    return ascii_mark or character.isspace() or category[0] in "PZ" or category in ("Cc", "Cf")
