"""One encoder for documents, another for queries, in one space of vectors. Knows no model and no index.

A small student is trained to put queries where its large teacher would (LEAF, arXiv 2509.12539): documents are encoded once, by the
teacher; every question costs only the student.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rag.core import Encoder, TokenBlock, TokenEncoder
from rag.errors import ConfigError

_MAX_LENGTH_ERROR = 5e-3  # bfloat16 keeps three digits


class AsymmetricEncoder:
    """``document_encoder`` for documents, ``query_encoder`` for queries. Both must give vectors of one dimension and of length 1.

    What is stored depends on ``document_encoder`` alone, and so does the ``fingerprint``, which is that encoder's own: an index that
    it built serves any student of it at once, and another ``query_encoder`` needs no rebuild. Nobody can see from two vectors of
    one dimension whether they mean the same space: give a student and its own teacher. Late chunking reads the token vectors of
    ``document_encoder``. Raises ``ConfigError`` that names both encoders at the first text if they do not fit.
    """

    def __init__(self, query_encoder: Encoder, document_encoder: Encoder) -> None:
        self.query_encoder = query_encoder
        self.document_encoder = document_encoder

    @property
    def fingerprint(self) -> str:
        return self.document_encoder.fingerprint

    @cached_property
    def dim(self) -> int:
        of_queries, of_documents = self.query_encoder.dim, self.document_encoder.dim
        if of_queries != of_documents:
            raise ConfigError(
                f"the query encoder {self.query_encoder!r} gives {of_queries} dimensions and the document encoder "
                f"{self.document_encoder!r} {of_documents}: they must be equal"
            )
        return of_documents

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._checked("document", self.document_encoder.encode_documents(texts))

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._checked("query", self.query_encoder.encode_queries(texts))

    @property
    def pooling(self) -> str:
        """How ``document_encoder`` makes one vector of many."""
        return self._token_encoder().pooling

    def token_vectors(
        self, texts: Sequence[str], overlap_tokens: int, task: Literal["query", "document"] = "document"
    ) -> Iterator[TokenBlock]:
        """Those of ``document_encoder``, for questions too. Raises ``ConfigError`` if it has none."""
        return self._token_encoder().token_vectors(texts, overlap_tokens, task)

    def _token_encoder(self) -> TokenEncoder:
        if not isinstance(self.document_encoder, TokenEncoder):
            raise ConfigError(f"the document encoder {self.document_encoder!r} gives no token vectors")
        return self.document_encoder

    def _checked(self, side: str, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        _ = self.dim  # both models are looked at before a first vector is stored or compared
        lengths = np.linalg.norm(vectors, axis=1)
        wrong = np.flatnonzero(~(np.abs(lengths - 1) <= _MAX_LENGTH_ERROR))  # not a number is wrong too
        if len(wrong):
            raise ConfigError(
                f"the {side} encoder gives a vector of length {lengths[wrong[0]]:.4g}, not 1, so scores would be no cosines "
                f"(query encoder {self.query_encoder!r}, document encoder {self.document_encoder!r})"
            )
        return vectors
