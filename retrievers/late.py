"""Late chunking: the vector of a chunk as the mean of its token vectors, read within the whole document.

Knows spans and token vectors; knows no model and no index. Source: Late Chunking, arXiv 2409.04701. Ours differs in two ways:
tokens are assigned to chunks by character offsets, and long documents are read in windows that keep every token from the
window where it lies most centrally (see ``rag.retrievers.windows``), so no text is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rag.core import Chunk, Span, TokenEncoder, tell
from rag.errors import ConfigError

_BLANKS = np.array([code for code in range(0x3001) if chr(code).isspace()], np.uint32)


def late_vectors_of(
    encoder: TokenEncoder, chunks: Sequence[Chunk], texts: Mapping[str, str], overlap_tokens: int
) -> NDArray[np.float32]:
    """``(chunks, dim)``: every document in ``texts`` that has chunks here is read once, whole.

    Raises ``ConfigError`` unless the encoder averages its token vectors, ``ValueError`` for a chunk whose text is not given.
    """
    if encoder.pooling != "mean":
        raise ConfigError(
            f"pooling 'late' averages token vectors; this encoder was trained with pooling {encoder.pooling!r}, not 'mean'"
        )
    rows_of: dict[str, list[int]] = {}
    for row, chunk in enumerate(chunks):
        if chunk.doc_id not in texts:
            raise ValueError(f"the text of document {chunk.doc_id!r} is needed to pool its chunks within it")
        rows_of.setdefault(chunk.doc_id, []).append(row)
    for rows in rows_of.values():
        rows.sort(key=lambda row: chunks[row].span)
    spans = [[chunks[row].span for row in rows] for rows in rows_of.values()]
    vectors = np.empty((len(chunks), encoder.dim), np.float32)
    found = late_vectors(encoder, [texts[doc_id] for doc_id in rows_of], spans, overlap_tokens)
    for rows, some in zip(rows_of.values(), found, strict=True):
        vectors[rows] = some
    return vectors


def late_vectors(
    encoder: TokenEncoder, texts: Sequence[str], spans: Sequence[Sequence[Span]], overlap_tokens: int
) -> list[NDArray[np.float32]]:
    """One ``(spans, dim)`` array per text, L2-normalised. ``spans`` ascend by start and by end and may overlap.

    A token counts for every span that holds its first character that is not blank; special tokens count for none. A span
    without a token of its own (its characters are unknown to the tokenizer) is encoded by itself.
    """
    sums = [np.zeros((len(some), encoder.dim), np.float64) for some in spans]
    starts = [np.array([span.start for span in some], np.int64) for some in spans]
    ends = [np.array([span.end for span in some], np.int64) for some in spans]
    solid = [_next_solid(text) for text in texts]
    num_read = 0
    for block in encoder.token_vectors(texts, overlap_tokens):
        row = block.row
        tell(sum(len(spans[done]) for done in range(num_read, row)))
        num_read = row
        places = solid[row][block.spans[:, 0]]
        own = places < block.spans[:, 1]
        places, vectors = places[own], block.vectors[own]
        first, last = np.searchsorted(places, starts[row]), np.searchsorted(places, ends[row])
        for number in np.flatnonzero(last > first):
            sums[row][number] += vectors[first[number] : last[number]].sum(0, dtype=np.float64)
    return [_normalised(encoder, *each) for each in zip(texts, spans, sums, strict=True)]


def _next_solid(text: str) -> NDArray[np.int64]:
    """For every character the place of the next one, itself included, that is not blank; ``(len(text) + 1,)``."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    places = np.where(np.isin(codes, _BLANKS), len(text), np.arange(len(text)))
    return np.minimum.accumulate(np.append(places, len(text))[::-1])[::-1]


def _normalised(encoder: TokenEncoder, text: str, spans: Sequence[Span], sums: NDArray[np.float64]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    vectors: NDArray[np.float32] = np.divide(sums, lengths, where=lengths > 0, out=sums).astype(np.float32)
    alone = np.flatnonzero(lengths[:, 0] == 0)
    if len(alone):
        vectors[alone] = encoder.encode_documents([spans[number].of(text) for number in alone.tolist()])
    return vectors
