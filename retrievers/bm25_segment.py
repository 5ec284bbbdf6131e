"""Postings of an immutable set of chunks, in memory or in memory-mapped files. Knows terms and counts; knows no weights.

Rows are terms in UTF-8 order; ordinals are chunks in key order. Row ``r`` has the postings
``posting_starts[r]:posting_starts[r + 1]``: ordinals (ascending) in ``ordinals``, how often the term occurs in ``counts``.
Nothing here depends on the rest of the corpus, so a segment stays true when others come and go.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rag.core import Facts
from rag.retrievers.analyse import Analyser
from rag.retrievers.posting_files import ascend, load_arrays, partition, refuse, save_arrays
from rag.retrievers.posting_merge import Lists, merged_chunks, merged_lists, ranges, source_of, starts_of

FORMAT = 1
_PREFIX_BYTES = 8


class Postings(NamedTuple):
    """The arrays of a segment; each is a file ``<name>.npy``. ``n`` chunks, ``t`` terms, ``p`` postings.

    ``term_prefixes`` holds the first 8 bytes of each term as a big-endian number, which orders like the terms themselves.
    """

    keys: NDArray[np.int64]  # (n,) ascending
    lengths: NDArray[np.int32]  # (n,) terms in each chunk
    term_bytes: NDArray[np.uint8]  # all terms in a row
    term_starts: NDArray[np.int64]  # (t + 1,)
    term_prefixes: NDArray[np.uint64]  # (t,)
    posting_starts: NDArray[np.int64]  # (t + 1,)
    ordinals: NDArray[np.int32]  # (p,)
    counts: NDArray[Any]  # (p,) uint8, uint16 or int32: the narrowest that fits


_DTYPES: dict[str, tuple[str, ...]] = {
    "keys": ("int64",),
    "lengths": ("int32",),
    "term_bytes": ("uint8",),
    "term_starts": ("int64",),
    "term_prefixes": ("uint64",),
    "posting_starts": ("int64",),
    "ordinals": ("int32",),
    "counts": ("uint8", "uint16", "int32"),
}


class BM25Segment:
    """A ``rag.core.Segment`` of postings. ``fingerprint`` names the analysis that made the terms."""

    def __init__(self, postings: Postings, fingerprint: str) -> None:
        for values in postings:
            values.flags.writeable = False
        self.postings = postings
        self.fingerprint = fingerprint
        self.num_terms = len(postings.term_prefixes)
        # One element of a memory view costs a tenth of one of a numpy array, and a look-up touches one at a time.
        self._prefixes = postings.term_prefixes.data
        self._term_starts = postings.term_starts.data
        self._term_bytes = postings.term_bytes.data
        self._posting_starts = postings.posting_starts.data

    @property
    def keys(self) -> NDArray[np.int64]:
        """Ascending, ``(num_chunks,)``."""
        return self.postings.keys

    @property
    def num_chunks(self) -> int:
        return len(self.postings.keys)

    @property
    def num_postings(self) -> int:
        return len(self.postings.ordinals)

    @property
    def lists(self) -> Lists:
        return Lists(self.postings.posting_starts, self.postings.ordinals, self.postings.counts)

    def term(self, row: int) -> bytes:
        """The UTF-8 bytes of the term in a row."""
        return self._term_bytes[self._term_starts[row] : self._term_starts[row + 1]].tobytes()

    def terms(self, rows: NDArray[np.int64]) -> list[bytes]:
        """The UTF-8 bytes of the terms in many rows."""
        joined = self.postings.term_bytes.tobytes()
        starts, ends = self.postings.term_starts[rows].tolist(), self.postings.term_starts[rows + 1].tolist()
        return [joined[start:end] for start, end in zip(starts, ends, strict=True)]

    def posting_range(self, term: str) -> tuple[int, int]:
        """Where the postings of a term begin and end; ``(0, 0)`` if the segment has none."""
        row = self.row(term.encode())
        return (0, 0) if row < 0 else (self._posting_starts[row], self._posting_starts[row + 1])

    def row(self, term: bytes) -> int:
        """The row of a term, -1 if the segment has none."""
        prefix = _prefix(term)
        row = bisect_left(self._prefixes, prefix)
        if row == self.num_terms or self._prefixes[row] != prefix:
            return -1
        if len(term) >= _PREFIX_BYTES:
            row = bisect_left(range(self.num_terms), term, row, bisect_right(self._prefixes, prefix, row), key=self.term)
        return row if row < self.num_terms and self.term(row) == term else -1

    def facts(self) -> Facts:
        """How many postings: what a search reads, and most of the bytes."""
        return {"postings": self.num_postings}

    def save(self, folder: Path) -> None:
        """Writes one ``.npy`` file per array and then ``manifest.json`` into an existing folder."""
        save_arrays(folder, "bm25", FORMAT, self.fingerprint, self.postings._asdict())


def load_segment(folder: Path, fingerprint: str) -> BM25Segment:
    """Opens what ``BM25Segment.save`` wrote, memory-mapped.

    Raises ``DamagedIndex`` if a file is missing or does not fit the others, ``IndexMismatch`` if another analysis or a newer
    format made it. Postings are not read here: ordinals out of range are skipped when scoring.
    """
    postings = Postings(**load_arrays(folder, "bm25", FORMAT, fingerprint, _DTYPES))
    num_chunks, num_terms = len(postings.keys), len(postings.term_prefixes)
    problems = {
        "keys": not ascend(postings.keys),
        "lengths": len(postings.lengths) != num_chunks or (num_chunks > 0 and int(postings.lengths.min()) < 0),
        "term_starts": not partition(postings.term_starts, num_terms, len(postings.term_bytes)),
        "posting_starts": not partition(postings.posting_starts, num_terms, len(postings.ordinals)),
        "counts": len(postings.counts) != len(postings.ordinals),
        "term_prefixes": bool((postings.term_prefixes[1:] < postings.term_prefixes[:-1]).any()),
    }
    refuse(folder, problems)
    return BM25Segment(postings, fingerprint)


# Build -----------------------------------------------------------------------------------------------------------------


class _Numbering(dict[str, int]):
    """String -> number in order of first sight."""

    def __missing__(self, key: str) -> int:
        number = self[key] = len(self)
        return number


def build_segment(keys: NDArray[np.int64], texts: Sequence[str], analyser: Analyser, fingerprint: str) -> BM25Segment:
    """Postings of ``texts``; ``keys`` ascend and name them one by one. Raises ``ValueError`` otherwise."""
    keys = np.array(keys, np.int64)
    if keys.shape != (len(texts),) or not ascend(keys):
        raise ValueError(f"{len(texts)} texts need as many ascending keys from 0 on, got shape {keys.shape}")
    word_numbers = _Numbering()
    words_in_text = array("q")
    word_of = array("i")
    for text in texts:
        before = len(word_of)
        word_of.extend(map(word_numbers.__getitem__, analyser.words(text)))
        words_in_text.append(len(word_of) - before)

    # Each distinct word is analysed once; its terms then replace it wherever it stands.
    term_numbers = _Numbering()
    terms_of = [[term_numbers[term] for term in analyser.terms_of(word)] for word in word_numbers]
    terms = sorted(term_numbers)  # by code point, which is the order of the UTF-8 bytes
    row_of = np.empty(len(terms), np.int64)
    row_of[[term_numbers[term] for term in terms]] = np.arange(len(terms))
    terms_in_word = np.array([len(numbers) for numbers in terms_of], np.int64)
    rows_of_words = row_of[np.fromiter(chain.from_iterable(terms_of), np.int64)]
    words = np.frombuffer(word_of, np.int32) if word_of else np.zeros(0, np.int32)
    rows = rows_of_words[ranges(np.cumsum(terms_in_word)[words] - terms_in_word[words], terms_in_word[words])]
    ordinals = np.repeat(np.repeat(np.arange(len(texts)), np.array(words_in_text, np.int64)), terms_in_word[words])

    lengths = np.bincount(ordinals, minlength=len(texts)).astype(np.int32)
    occurrences = rows * max(1, len(texts)) + ordinals
    del rows, ordinals
    occurrences.sort()
    first = np.flatnonzero(np.diff(occurrences, prepend=-1))
    counts = np.diff(first, append=len(occurrences))
    posting_rows, posting_ordinals = np.divmod(occurrences[first], max(1, len(texts)))
    starts = starts_of(np.bincount(posting_rows, minlength=len(terms)))
    encoded = [term.encode() for term in terms]
    return BM25Segment(
        Postings(keys, lengths, *_dictionary(encoded), starts, posting_ordinals.astype(np.int32), _narrowed(counts)),
        fingerprint,
    )


def _dictionary(terms: Sequence[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint64]]:
    """``term_bytes``, ``term_starts`` and ``term_prefixes`` of sorted terms."""
    return (
        np.frombuffer(b"".join(terms), np.uint8).copy(),
        starts_of(np.fromiter(map(len, terms), np.int64, len(terms))),
        np.fromiter(map(_prefix, terms), np.uint64, len(terms)),
    )


def _prefix(term: bytes) -> int:
    return int.from_bytes(term[:_PREFIX_BYTES].ljust(_PREFIX_BYTES, b"\0"), "big")


def _narrowed(counts: NDArray[Any]) -> NDArray[Any]:
    largest = int(counts.max(initial=0))
    dtype = np.uint8 if largest < 1 << 8 else np.uint16 if largest < 1 << 16 else np.int32
    return counts.astype(dtype, copy=False)


# Merge -----------------------------------------------------------------------------------------------------------------


def merge_segments(segments: Sequence[BM25Segment], live: NDArray[np.bool_], fingerprint: str) -> BM25Segment:
    """The segment that ``build_segment`` would make of the live chunks, array for array; no text is read again.

    Raises ``ValueError`` if two segments hold the same live key.
    """
    sources = [source_of(segment.keys, segment.lists, live) for segment in segments]
    keys, lengths = merged_chunks(sources, [segment.postings.lengths for segment in segments])
    terms_of = [segment.terms(source.rows) for segment, source in zip(segments, sources, strict=True)]
    terms = sorted(set(chain.from_iterable(terms_of)))
    row_of_term = {term: row for row, term in enumerate(terms)}
    new_rows = [np.fromiter(map(row_of_term.__getitem__, own), np.int64, len(own)) for own in terms_of]
    merged = merged_lists(sources, new_rows, len(terms), keys)
    counts = _narrowed(merged.values)
    return BM25Segment(
        Postings(keys, lengths.astype(np.int32, copy=False), *_dictionary(terms), merged.starts, merged.ordinals, counts),
        fingerprint,
    )
