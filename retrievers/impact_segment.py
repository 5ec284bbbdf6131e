"""Postings of learned term weights, in memory or in memory-mapped files. Knows terms, impacts and chunks; knows no encoder.

Row ``r`` belongs to the term ``terms[r]`` and has the postings ``posting_starts[r]:posting_starts[r + 1]``: ordinals (ascending) and
impacts. A document weight is ``impact * scales[ordinal]``. With ``uint8`` the scale of a chunk is its largest weight / 255 and an
impact is the nearest of 1..255, so a weight is off by at most half a step of its own chunk (a whole one at the low end, where 0 would
hide the term). One scale per *chunk*, because nothing else then depends on other chunks: segments with different weights search
and merge as if built at once, no weight is ever clipped, and 4 bytes stand beside some hundred impacts. Unsigned, because weights
are. ``float32`` stores the weights themselves, with scales of 1. A binary encoder gives one weight to all terms of a chunk: it is the scale,
and no impact is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rag.core import Facts, SparseVectors
from rag.retrievers.posting_files import ascend, load_arrays, partition, refuse, save_arrays
from rag.retrievers.posting_merge import Lists, merged_chunks, merged_lists, source_of, starts_of

FORMAT = 1
_STEPS = 255

Store = Literal["uint8", "float32"]


class Impacts(NamedTuple):
    """The arrays of a segment; each is a file ``<name>.npy``. ``n`` chunks, ``t`` terms, ``p`` postings."""

    keys: NDArray[np.int64]  # (n,) ascending
    scales: NDArray[np.float32]  # (n,)
    terms: NDArray[np.int32]  # (t,) ascending
    posting_starts: NDArray[np.int64]  # (t + 1,)
    ordinals: NDArray[np.int32]  # (p,)
    impacts: NDArray[Any]  # (p,) uint8 or float32; (0,) for a binary encoder


_DTYPES: dict[str, tuple[str, ...]] = {
    "keys": ("int64",),
    "scales": ("float32",),
    "terms": ("int32",),
    "posting_starts": ("int64",),
    "ordinals": ("int32",),
    "impacts": ("uint8", "float32"),
}


class ImpactSegment:
    """A ``rag.core.Segment`` of impacts. ``fingerprint`` names the encoder and the way weights are stored."""

    def __init__(self, arrays: Impacts, fingerprint: str) -> None:
        for values in arrays:
            values.flags.writeable = False
        self.arrays = arrays
        self.fingerprint = fingerprint

    @property
    def keys(self) -> NDArray[np.int64]:
        """Ascending, ``(num_chunks,)``."""
        return self.arrays.keys

    @property
    def num_chunks(self) -> int:
        return len(self.arrays.keys)

    @property
    def num_postings(self) -> int:
        return len(self.arrays.ordinals)

    @property
    def values(self) -> NDArray[Any] | None:
        """The impacts, ``None`` if they are all 1."""
        return None if len(self.arrays.impacts) < self.num_postings else self.arrays.impacts

    @property
    def lists(self) -> Lists:
        ones = np.broadcast_to(np.uint8(1), (self.num_postings,))  # takes no memory
        return Lists(self.arrays.posting_starts, self.arrays.ordinals, ones if self.values is None else self.values)

    def rows(self, term_ids: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The row of each term, and whether it has one: row 0 otherwise."""
        terms = self.arrays.terms
        if not len(terms):
            return np.zeros(len(term_ids), np.int64), np.zeros(len(term_ids), np.bool_)
        rows = np.searchsorted(terms, term_ids)
        rows[rows == len(terms)] = 0
        known = terms[rows] == term_ids
        return rows * known, known

    def facts(self) -> Facts:
        """How many postings: what a search reads, and most of the bytes."""
        return {"postings": self.num_postings}

    def save(self, folder: Path) -> None:
        """Writes one ``.npy`` file per array and then ``manifest.json`` into an existing folder."""
        save_arrays(folder, "impact", FORMAT, self.fingerprint, self.arrays._asdict())


def load_segment(folder: Path, fingerprint: str) -> ImpactSegment:
    """Opens what ``ImpactSegment.save`` wrote, memory-mapped.

    Raises ``DamagedIndex`` if a file is missing or does not fit the others, ``IndexMismatch`` if another encoder, another way of storing
    or a newer format made it. Postings are not read here: ordinals out of range are skipped when scoring.
    """
    arrays = Impacts(**load_arrays(folder, "impact", FORMAT, fingerprint, _DTYPES))
    num_postings = len(arrays.ordinals)
    problems = {
        "keys": not ascend(arrays.keys),
        "scales": len(arrays.scales) != len(arrays.keys) or not bool((np.isfinite(arrays.scales) & (arrays.scales > 0)).all()),
        "terms": not ascend(arrays.terms),
        "posting_starts": not partition(arrays.posting_starts, len(arrays.terms), num_postings),
        "impacts": len(arrays.impacts) not in (0, num_postings),
    }
    refuse(folder, problems)
    return ImpactSegment(arrays, fingerprint)


def build_segment(keys: NDArray[np.int64], vectors: SparseVectors, store: Store, binary: bool, fingerprint: str) -> ImpactSegment:
    """Postings of checked ``vectors``, one row per key."""
    num_chunks = len(keys)
    sizes = np.diff(vectors.starts)
    ordinals = np.repeat(np.arange(num_chunks, dtype=np.int32), sizes)
    scales = np.ones(num_chunks, np.float32)
    impacts: NDArray[Any] = np.zeros(0, np.uint8)
    # Rows are texts and ordinals ascend, so a stable sort by term leaves them ascending within each term.
    order = np.argsort(vectors.term_ids, kind="stable")
    if binary:
        scales[sizes > 0] = vectors.weights[vectors.starts[:-1][sizes > 0]]
    elif store == "float32":
        impacts = vectors.weights[order]
    else:
        scales, impacts = _quantised(vectors, ordinals, num_chunks)
        impacts = impacts[order]
    in_order = vectors.term_ids[order]
    first = np.flatnonzero(np.diff(in_order, prepend=-1))
    starts = starts_of(np.diff(first, append=len(order)))
    return ImpactSegment(Impacts(keys, scales, in_order[first], starts, ordinals[order], impacts), fingerprint)


def _quantised(
    vectors: SparseVectors, ordinals: NDArray[np.int32], num_chunks: int
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """A scale per chunk, and per weight the nearest impact from 1 to 255."""
    largest = np.zeros(num_chunks, np.float32)
    np.maximum.at(largest, ordinals, vectors.weights)
    scales = np.where(largest > 0, largest / np.float32(_STEPS), np.float32(1)).astype(np.float32)
    scales = np.maximum(scales, np.finfo(np.float32).tiny)
    impacts = np.rint(vectors.weights.astype(np.float64) / scales[ordinals])
    return scales, np.clip(impacts, 1, _STEPS).astype(np.uint8)


def merge_segments(segments: Sequence[ImpactSegment], live: NDArray[np.bool_], fingerprint: str) -> ImpactSegment:
    """The segment that ``build_segment`` would make of the live chunks, array for array; nothing is encoded again.

    Raises ``ValueError`` if two segments hold the same live key.
    """
    stored = [segment for segment in segments if segment.num_postings]
    sources = [source_of(segment.keys, segment.lists, live) for segment in segments]
    keys, scales = merged_chunks(sources, [segment.arrays.scales for segment in segments])
    own = [segment.arrays.terms[source.rows] for segment, source in zip(segments, sources, strict=True)]
    terms = np.unique(np.concatenate([np.zeros(0, np.int32), *own]))
    merged = merged_lists(sources, [np.searchsorted(terms, each) for each in own], len(terms), keys)
    binary = any(segment.values is None for segment in stored)
    impacts = merged.values[:0] if binary else merged.values
    return ImpactSegment(Impacts(keys, scales, terms, merged.starts, merged.ordinals, impacts), fingerprint)
