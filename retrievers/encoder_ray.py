"""Documents encoded by copies of an encoder on the machines of a Ray cluster. Knows texts and vectors; knows no model and no index.

Encoding is nearly all of an ingest; reading, cutting and the one writer of an index stay where the ingest runs. Texts go out in pieces, the
longest texts first, to whichever worker is free, and every result goes back to its row. A piece is encoded as the same encoder would
encode it here (``RayEncoder.reference``); pieces are other batches than the whole, so a vector may differ from an encoding in one
go by rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rag.core import Encoder, TokenBlock, TokenEncoder, tell
from rag.errors import ConfigError
from rag.retrievers.ray_workers import Workers

_PIECE_CHARS = 32_000  # some 8,000 tokens: two full packs of the default encoder
_PIECES_HERE = 4  # what answers a question (sentences of its hits, say) or a small change is no work for a cluster


class RayEncoder:
    """``document_encoder`` for everything; its documents are encoded by as many copies of it as there are ``workers``.

    ``address``: ``local`` starts Ray on this machine for as long as this process runs, ``auto`` finds the cluster that this machine is a
    node of, ``ray://host:10001`` or ``host:6379`` names one; a Ray that this program has connected to already is used as it is. Each
    worker takes ``cpus_per_worker`` and ``gpus_per_worker`` of the cluster; ``workers`` of ``None`` are as many as the cluster has room
    for when the first texts come. Workers join whenever there is room for them; if there is none within ``start_seconds``, that is an
    error. What a worker had that died goes to another one, twice; then that is an error too.

    Every machine needs Ragstone and the model under the same name. A worker whose model is not this one, by ``fingerprint``, is
    refused. Queries are encoded here, and so are a few texts (up to four pieces): no answer waits for a cluster, or needs Ray at all.
    What is stored is what ``document_encoder`` would store, ``fingerprint`` included: an index that was filled by a cluster is opened
    anywhere without Ray.

    Raises ``MissingExtra`` without Ray, ``ConfigError`` for a cluster that is not there or has no room or another model,
    ``ModelError`` if workers keep dying, each when there are documents enough.
    """

    def __init__(
        self,
        document_encoder: Encoder,
        address: str = "local",
        workers: int | None = None,
        cpus_per_worker: float = 1.0,
        gpus_per_worker: float = 0.0,
        start_seconds: float = 120.0,
    ) -> None:
        if workers is not None and workers < 1:
            raise ConfigError(f"workers must be at least 1, not {workers}")
        if not (cpus_per_worker > 0 and gpus_per_worker >= 0 and start_seconds > 0):
            raise ConfigError(
                f"cpus_per_worker={cpus_per_worker}, start_seconds={start_seconds} must be above 0 and gpus_per_worker={gpus_per_worker} not below"
            )
        self.document_encoder = document_encoder
        self._address, self._num_workers, self._start_seconds = address, workers, start_seconds
        self._resources = {"num_cpus": cpus_per_worker, "num_gpus": gpus_per_worker}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.document_encoder!r}, {self._address!r})"

    @property
    def dim(self) -> int:
        return self.document_encoder.dim

    @property
    def fingerprint(self) -> str:
        return self.document_encoder.fingerprint

    @property
    def pooling(self) -> str:
        """How ``document_encoder`` makes one vector of many. Raises ``ConfigError`` if it gives no token vectors."""
        return self._token_encoder().pooling

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self.document_encoder.encode_queries(texts)

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        order, pieces = _pieces(texts)
        if len(pieces) <= _PIECES_HERE:
            return self.document_encoder.encode_documents(texts)
        return self._gathered(order, self._workers.each("encode_documents", ([texts[row] for row in rows] for rows in pieces)))

    def reference(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """``encode_documents`` without Ray: the same pieces, one after the other, in this process."""
        order, pieces = _pieces(texts)
        return self._gathered(order, (self.document_encoder.encode_documents([texts[row] for row in rows]) for rows in pieces))

    def _gathered(self, order: Sequence[int], parts: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
        """The rows of ``parts``, of which the i-th belongs to text ``order[i]``."""
        if not order:
            return np.empty((0, self.dim), np.float32)
        kept = []
        for part in parts:
            kept.append(part)
            tell(len(part))
        found = np.concatenate(kept)
        vectors = np.empty_like(found)
        vectors[np.asarray(order)] = found
        return vectors

    def token_vectors(
        self, texts: Sequence[str], overlap_tokens: int, task: Literal["query", "document"] = "document"
    ) -> Iterator[TokenBlock]:
        """Those of ``document_encoder``, text by text in order; of questions here. Raises ``ConfigError`` if it has none."""
        encoder = self._token_encoder()
        pieces = [[texts[row] for row in rows] for rows in _in_order(range(len(texts)), texts)]
        if task == "query" or len(pieces) <= _PIECES_HERE:
            yield from encoder.token_vectors(texts, overlap_tokens, task)
            return
        first = 0
        for piece, blocks in zip(pieces, self._workers.each("token_blocks", pieces, overlap_tokens), strict=True):
            yield from (TokenBlock(first + row, spans, vectors) for row, spans, vectors in blocks)
            first += len(piece)

    def _token_encoder(self) -> TokenEncoder:
        if not isinstance(self.document_encoder, TokenEncoder):
            raise ConfigError(f"the document encoder {self.document_encoder!r} gives no token vectors")
        return self.document_encoder

    @cached_property
    def _workers(self) -> Workers:
        return Workers(_Copy, self.document_encoder, self._address, self._num_workers, self._resources, self._start_seconds)


def _pieces(texts: Sequence[str]) -> tuple[list[int], list[list[int]]]:
    """Row numbers from the longest text to the shortest, and the same in pieces: texts of a length pack well, and the last pieces are the quickest."""
    order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
    return order, _in_order(order, texts)


def _in_order(rows: Sequence[int], texts: Sequence[str]) -> list[list[int]]:
    """``rows`` in consecutive pieces of ``_PIECE_CHARS`` characters at the most, but at least one text each."""
    pieces: list[list[int]] = []
    num_chars = 0
    for row in rows:
        if not pieces or num_chars + len(texts[row]) > _PIECE_CHARS:
            pieces.append([])
            num_chars = 0
        pieces[-1].append(row)
        num_chars += len(texts[row])
    return pieces


class _Copy:
    """What runs in a worker: an encoder that has loaded nothing yet."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def fingerprint(self) -> str:
        return self._encoder.fingerprint

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._encoder.encode_documents(texts)

    def token_blocks(self, texts: Sequence[str], overlap_tokens: int) -> list[TokenBlock]:
        assert isinstance(self._encoder, TokenEncoder)
        return list(self._encoder.token_vectors(texts, overlap_tokens))
