"""Whether what a sparse encoder gave can be searched. Knows starts, term ids and weights; knows no model and no index."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag.core import SparseEncoder, SparseVectors
from rag.errors import ModelError
from rag.retrievers.posting_files import partition

MAX_WEIGHT = 1e9
"""Sums of products of two weights below it stay far inside float32."""


def checked(found: SparseVectors, num_texts: int, encoder: SparseEncoder, *, binary: bool) -> SparseVectors:
    """``found`` in the types of the protocol, without terms of weight zero.

    Raises ``ModelError`` that names the encoder, the bad value and what is allowed: one row per text, ids that ascend within a row and
    are below ``num_terms``, weights from 0 to ``MAX_WEIGHT``; with ``binary`` one weight for all terms of a text. A text without any term is fine.
    """
    who = f"the sparse encoder {type(encoder).__name__}"
    starts = np.asarray(found.starts).astype(np.int64)
    ids, weights = np.asarray(found.term_ids), np.asarray(found.weights).astype(np.float32)
    if ids.shape != weights.shape or ids.ndim != 1:
        raise ModelError(f"{who} gave {ids.shape} term ids and {weights.shape} weights; allowed: one weight per term id")
    if starts.ndim != 1 or not partition(starts, num_texts, len(ids)):
        raise ModelError(f"{who} gave starts {_some(starts)} for {num_texts} texts and {len(ids)} terms; allowed: one row per text")
    wrong = ~((weights >= 0) & (weights <= MAX_WEIGHT))  # a NaN compares as false
    if wrong.any():
        raise ModelError(f"{who} gave the weight {weights[wrong][0]} to term {ids[wrong][0]}; allowed: 0 to {MAX_WEIGHT:g}")
    wrong = (ids < 0) | (ids >= encoder.num_terms)
    if wrong.any():
        raise ModelError(f"{who} gave the term id {ids[wrong][0]}; allowed: 0 to {encoder.num_terms - 1}")
    inside = np.ones(len(ids), np.bool_)
    inside[starts[:-1][starts[:-1] < len(ids)]] = False  # the first of a row has none before it
    wrong = inside[1:] & (np.diff(ids) <= 0)
    if wrong.any():
        place = int(np.flatnonzero(wrong)[0])
        raise ModelError(f"{who} gave term {ids[place + 1]} after term {ids[place]} of one text; allowed: ascending term ids")
    kept = weights > 0
    if not kept.all():
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept, dtype=np.int64)])
        starts, ids, weights = before[starts], ids[kept], weights[kept]
    if binary:
        heads = np.repeat(weights[starts[:-1][np.diff(starts) > 0]], np.diff(starts)[np.diff(starts) > 0])
        wrong = weights != heads
        if wrong.any():
            place = int(np.flatnonzero(wrong)[0])
            raise ModelError(
                f"{who} is binary but gave the weights {heads[place]} and {weights[place]} to one text; allowed: one weight for all its terms"
            )
    return SparseVectors(starts, ids.astype(np.int32, copy=False), weights)


def _some(values: NDArray[Any]) -> str:
    return np.array2string(values, threshold=6, edgeitems=3)
