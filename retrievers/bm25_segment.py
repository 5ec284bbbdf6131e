"""Postings of an immutable set of chunks, in memory or in memory-mapped files. Knows terms and counts; knows no weights.

Rows are terms in UTF-8 order; ordinals are chunks in key order. Row ``r`` has the postings
``posting_starts[r]:posting_starts[r + 1]``: ordinals (ascending) in ``ordinals``, how often the term occurs in ``counts``.
Nothing here depends on the rest of the corpus, so a segment stays true when others come and go.
"""

from __future__ import annotations

import json
import tempfile
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rag.core import Facts
from rag.errors import DamagedIndex, IndexMismatch
from rag.retrievers.analyse import Analyser

FORMAT = 1
MANIFEST = "manifest.json"
_PREFIX_BYTES = 8
_MERGE_POSTINGS = 1 << 19
_MAX_BYTES_IN_MEMORY = 1 << 24


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
        values_of: dict[str, NDArray[Any]] = self.postings._asdict()
        for name, values in values_of.items():
            np.save(folder / f"{name}.npy", values, allow_pickle=False)
        arrays = {name: [str(values.dtype), len(values)] for name, values in values_of.items()}
        manifest = {"format": FORMAT, "kind": "bm25", "fingerprint": self.fingerprint, "arrays": arrays}
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def load_segment(folder: Path, fingerprint: str) -> BM25Segment:
    """Opens what ``BM25Segment.save`` wrote, memory-mapped.

    Raises ``DamagedIndex`` if a file is missing or does not fit the others, ``IndexMismatch`` if another analysis or a newer
    format made it. Postings are not read here: ordinals out of range are skipped when scoring.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        found_format, found_fingerprint, arrays = manifest["format"], manifest["fingerprint"], manifest["arrays"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedIndex(folder / MANIFEST, f"not a readable manifest ({type(error).__name__}: {error})") from error
    if found_format != FORMAT:
        raise IndexMismatch(f"{folder} has BM25 format {found_format!r}; this version reads format {FORMAT}")
    if found_fingerprint != fingerprint:
        raise IndexMismatch(f"{folder} was analysed as {found_fingerprint!r}, this index analyses as {fingerprint!r}")
    postings = Postings(*(_open_array(folder / f"{name}.npy", name, arrays) for name in Postings._fields))
    _check(folder, postings)
    return BM25Segment(postings, fingerprint)


def _open_array(path: Path, name: str, arrays: Any) -> NDArray[Any]:
    try:
        values = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        expected = arrays[name]
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise DamagedIndex(path, f"cannot be read ({type(error).__name__}: {error})") from error
    if values.ndim != 1 or str(values.dtype) not in _DTYPES[name] or [str(values.dtype), len(values)] != expected:
        raise DamagedIndex(path, f"holds {values.dtype} {values.shape}, the manifest says {expected}")
    return values


def _check(folder: Path, postings: Postings) -> None:
    num_chunks, num_terms = len(postings.keys), len(postings.term_prefixes)
    problems = {
        "keys": num_chunks > 0 and (postings.keys[0] < 0 or bool((np.diff(postings.keys) <= 0).any())),
        "lengths": len(postings.lengths) != num_chunks or (num_chunks > 0 and int(postings.lengths.min()) < 0),
        "term_starts": not _partitions(postings.term_starts, num_terms, len(postings.term_bytes)),
        "posting_starts": not _partitions(postings.posting_starts, num_terms, len(postings.ordinals)),
        "counts": len(postings.counts) != len(postings.ordinals),
        "term_prefixes": bool((postings.term_prefixes[1:] < postings.term_prefixes[:-1]).any()),
    }
    for name, wrong in problems.items():
        if wrong:
            raise DamagedIndex(folder / f"{name}.npy", "does not fit the other files of the segment")


def _partitions(starts: NDArray[np.int64], num_rows: int, total: int) -> bool:
    return len(starts) == num_rows + 1 and int(starts[0]) == 0 and int(starts[-1]) == total and not (np.diff(starts) < 0).any()


# Build -----------------------------------------------------------------------------------------------------------------


class _Numbering(dict[str, int]):
    """String -> number in order of first sight."""

    def __missing__(self, key: str) -> int:
        number = self[key] = len(self)
        return number


def build_segment(keys: NDArray[np.int64], texts: Sequence[str], analyser: Analyser, fingerprint: str) -> BM25Segment:
    """Postings of ``texts``; ``keys`` ascend and name them one by one. Raises ``ValueError`` otherwise."""
    keys = np.array(keys, np.int64)
    if keys.shape != (len(texts),) or (len(keys) > 0 and (keys[0] < 0 or bool((np.diff(keys) <= 0).any()))):
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
    rows = rows_of_words[_ranges(np.cumsum(terms_in_word)[words] - terms_in_word[words], terms_in_word[words])]
    ordinals = np.repeat(np.repeat(np.arange(len(texts)), np.array(words_in_text, np.int64)), terms_in_word[words])

    lengths = np.bincount(ordinals, minlength=len(texts)).astype(np.int32)
    occurrences = rows * max(1, len(texts)) + ordinals
    del rows, ordinals
    occurrences.sort()
    first = np.flatnonzero(np.diff(occurrences, prepend=-1))
    counts = np.diff(first, append=len(occurrences))
    posting_rows, posting_ordinals = np.divmod(occurrences[first], max(1, len(texts)))
    starts = _starts(np.bincount(posting_rows, minlength=len(terms)))
    encoded = [term.encode() for term in terms]
    return BM25Segment(
        Postings(keys, lengths, *_dictionary(encoded), starts, posting_ordinals.astype(np.int32), _narrowed(counts)),
        fingerprint,
    )


def _dictionary(terms: Sequence[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint64]]:
    """``term_bytes``, ``term_starts`` and ``term_prefixes`` of sorted terms."""
    return (
        np.frombuffer(b"".join(terms), np.uint8).copy(),
        _starts(np.fromiter(map(len, terms), np.int64, len(terms))),
        np.fromiter(map(_prefix, terms), np.uint64, len(terms)),
    )


def _prefix(term: bytes) -> int:
    return int.from_bytes(term[:_PREFIX_BYTES].ljust(_PREFIX_BYTES, b"\0"), "big")


def _starts(sizes: NDArray[Any]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])


def _ranges(starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """``[starts[0], starts[0] + 1, ...]`` of ``sizes[0]`` numbers, then those of the next, ..."""
    ends = np.cumsum(sizes)
    return np.arange(int(sizes.sum())) + np.repeat(starts - ends + sizes, sizes)


def _narrowed(counts: NDArray[Any]) -> NDArray[Any]:
    largest = int(counts.max(initial=0))
    dtype = np.uint8 if largest < 1 << 8 else np.uint16 if largest < 1 << 16 else np.int32
    return counts.astype(dtype, copy=False)


# Merge -----------------------------------------------------------------------------------------------------------------


class _Source(NamedTuple):
    """What one segment brings to a merge: which chunks live, and the ``terms`` in ``rows`` that live in ``sizes`` chunks."""

    postings: Postings
    alive: NDArray[np.bool_]
    rows: NDArray[np.int64]
    sizes: NDArray[np.int64]
    terms: list[bytes]


def merge_segments(segments: Sequence[BM25Segment], live: NDArray[np.bool_], fingerprint: str) -> BM25Segment:
    """The segment that ``build_segment`` would make of the live chunks, array for array; no text is read again.

    Terms are merged in blocks of about half a million postings; above 16 MiB the new postings go to a temporary file.
    Raises ``ValueError`` if two segments hold the same live key.
    """
    sources = [_source(segment, live) for segment in segments]
    keys = np.concatenate([np.zeros(0, np.int64), *(source.postings.keys[source.alive] for source in sources)])
    lengths = np.concatenate([np.zeros(0, np.int32), *(source.postings.lengths[source.alive] for source in sources)])
    order = np.argsort(keys, kind="stable")
    keys, lengths = keys[order], lengths[order]
    if not np.diff(keys).all():
        raise ValueError("a live key is in two of the segments to merge")

    terms = sorted(set(chain.from_iterable(source.terms for source in sources)))
    row_of_term = {term: row for row, term in enumerate(terms)}
    new_rows = [np.fromiter(map(row_of_term.__getitem__, source.terms), np.int64, len(source.terms)) for source in sources]
    new_ordinals = [np.where(source.alive, np.searchsorted(keys, source.postings.keys), -1) for source in sources]
    sizes = np.zeros(len(terms), np.int64)
    for source, rows in zip(sources, new_rows, strict=True):
        sizes[rows] += source.sizes
    starts = _starts(sizes)

    widest = np.result_type(np.uint8, *(source.postings.counts.dtype for source in sources))
    merged_ordinals: NDArray[np.int32] = _room(int(starts[-1]), np.dtype(np.int32))
    merged_counts: NDArray[Any] = _room(int(starts[-1]), widest)
    for lo, hi in pairwise(_blocks(starts)):
        block = slice(starts[lo], starts[hi])
        found = [_live_postings(*each, lo, hi, len(keys)) for each in zip(sources, new_rows, new_ordinals, strict=True)]
        places = np.concatenate([place for place, _ in found])
        order = np.argsort(places, kind="stable")
        merged_ordinals[block] = places[order] % len(keys)
        merged_counts[block] = np.concatenate([counts for _, counts in found])[order]
    postings = Postings(keys, lengths, *_dictionary(terms), starts, merged_ordinals, _narrowed(merged_counts))
    return BM25Segment(postings, fingerprint)


def _source(segment: BM25Segment, live: NDArray[np.bool_]) -> _Source:
    alive = alive_mask(segment.keys, live)
    sizes = _live_sizes(segment.postings, alive)
    rows = np.flatnonzero(sizes)
    return _Source(segment.postings, alive, rows, sizes[rows], segment.terms(rows))


def alive_mask(keys: NDArray[np.int64], live: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of the ascending ``keys`` have ``live[key]``; keys past its end do not."""
    mask = np.zeros(len(keys), np.bool_)
    inside = int(np.searchsorted(keys, len(live)))
    mask[:inside] = live[keys[:inside]]
    return mask


def _live_sizes(postings: Postings, alive: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many live chunks hold each term, ``(t,)``."""
    if alive.all():
        return np.diff(postings.posting_starts)
    sizes = np.zeros(len(postings.term_prefixes), np.int64)
    for lo, hi in pairwise(_blocks(postings.posting_starts)):
        start, end = postings.posting_starts[lo], postings.posting_starts[hi]
        before = _starts(alive[postings.ordinals[start:end]])
        sizes[lo:hi] = np.diff(before[postings.posting_starts[lo : hi + 1] - start])
    return sizes


def _blocks(starts: NDArray[np.int64]) -> Iterator[int]:
    """Row numbers, from 0 to the last, that cut the rows into blocks of bounded postings (or one row)."""
    row, last = 0, len(starts) - 1
    yield row
    while row < last:
        row = max(row + 1, int(np.searchsorted(starts, starts[row] + _MERGE_POSTINGS, "right")) - 1)
        yield row


def _live_postings(
    source: _Source, new_rows: NDArray[np.int64], new_ordinals: NDArray[np.int64], lo: int, hi: int, num_chunks: int
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Live postings whose new rows are in ``[lo, hi)``: ``(new row - lo) * num_chunks + new ordinal``, and their counts."""
    block = slice(*np.searchsorted(new_rows, [lo, hi]))
    starts = source.postings.posting_starts[source.rows[block]]
    sizes = source.postings.posting_starts[source.rows[block] + 1] - starts
    positions = _ranges(starts, sizes)
    ordinals = new_ordinals[source.postings.ordinals[positions]]
    alive = ordinals >= 0
    places = np.repeat(new_rows[block] - lo, sizes) * num_chunks + ordinals
    return places[alive], source.postings.counts[positions[alive]]


def _room(length: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    if length * dtype.itemsize <= _MAX_BYTES_IN_MEMORY:
        return np.empty(length, dtype)
    with tempfile.TemporaryFile() as file:  # the mapping outlives the open file
        return np.asarray(np.memmap(file, dtype, "w+", shape=(length,)))
