"""Segments out of parts: plain ones, or coded with a codec that is taken over or trained. Knows parts, codecs and sinks; no query.

Documents are coded with the codec that most of them (or the committed segments beside them) have already, so that adding trains and
recodes nothing. A new one is trained when the old one was made for an eighth of the tokens, or when residuals have grown
by 15 % (drift): the vectors are then decoded and coded again, which adds the new codes' error to the old codes' one, unless the
index keeps its vectors (``rescore``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rag.core import OnProgress
from rag.kernels.crew import Crew
from rag.retrievers.warp.arrays import Arrays, Sink
from rag.retrievers.warp.codec import Codec, num_centroids_for, padded_dim, train_codec
from rag.retrievers.warp.parts import Part, blocks, keys_of, sample
from rag.retrievers.warp.probing import lists_of
from rag.retrievers.warp.segment import Header, Judge, Recipe, WarpSegment, take

MAX_GROWTH = 8
MAX_DRIFT = 1.15
SAMPLE_PER_CENTROID = 32
_DRIFT_SAMPLE = 16_384
_LONGEST_RUN = 255
_LISTS_ABOVE_RUNS = 4_000_000
"""Lists of fewer runs are made in a second by whoever probes them; searches read all documents there."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How token vectors become a segment; see ``WarpIndex`` for the options."""

    bits: int
    dim: int | None
    exact_below: int
    keep_vectors: bool
    seed: int


def plain_segment(keys: NDArray[np.int64], documents: Sequence[NDArray[np.float32]], dim: int, fingerprint: str) -> WarpSegment:
    """A segment of the token vectors ``(tokens, dim)`` of each document, as float16 in memory."""
    starts = np.zeros(len(documents) + 1, np.int64)
    np.cumsum([len(vectors) for vectors in documents], out=starts[1:])
    joined = np.empty((int(starts[-1]), dim), np.float16)
    for start, end, vectors in zip(starts[:-1].tolist(), starts[1:].tolist(), documents, strict=True):
        joined[start:end] = vectors
    return WarpSegment(keys, fingerprint, None, {"token_starts": starts, "vectors": joined}, Header(dim))


def stored_segment(
    keys: NDArray[np.int64], token_starts: NDArray[np.int64], vectors: NDArray[np.float16], dim: int, fingerprint: str
) -> WarpSegment:
    """A plain segment of vectors that stand one behind the other, nothing copied. Raises ``ValueError`` for what does not fit."""
    num_tokens = int(token_starts[-1]) if len(token_starts) else -1
    if vectors.dtype != np.float16 or vectors.shape != (num_tokens, dim) or len(token_starts) != len(keys) + 1:
        raise ValueError(
            f"{len(keys)} keys need {len(keys) + 1} token_starts and float16 vectors ({num_tokens}, {dim}), "
            f"not {token_starts.shape} and {vectors.dtype} {vectors.shape}"
        )
    if token_starts[0] or np.any(np.diff(token_starts) < 1):
        raise ValueError("token_starts must begin at 0 and rise: every document needs a token")
    arrays: Arrays = {"token_starts": np.asarray(token_starts, np.int64), "vectors": vectors}
    return WarpSegment(keys, fingerprint, None, arrays, Header(dim))


def joined_segment(
    parts: Sequence[Part],
    beside: Sequence[WarpSegment],
    plan: Plan,
    fingerprint: str,
    dim: int,
    judge: Judge,
    crew: Crew,
    on_progress: OnProgress | None,
) -> WarpSegment:
    """One segment of all parts: plain if it is small and nothing was coded before, else coded. Built when it is needed.

    Memory holds the sample to train on (at most ``SAMPLE_PER_CENTROID`` vectors a centroid, so it grows with the root of the tokens), a
    block of ``BLOCK_TOKENS`` per thread, and 8 bytes a run. ``on_progress``: is told documents.
    """
    if sum(part.num_tokens for part in parts) < plan.exact_below and all(part.segment.vectors is not None for part in parts):
        return WarpSegment.planned(keys_of(parts), fingerprint, _plain(parts, dim))
    return WarpSegment.planned(keys_of(parts), fingerprint, _coded(parts, beside, plan, dim, crew, on_progress), judge)


def _plain(parts: Sequence[Part], dim: int) -> Recipe:
    def write(sink: Sink) -> Header:
        ends = [0]
        sink.add("vectors", np.empty((0, dim), np.float16))
        for part, rows in blocks(parts):
            assert part.segment.vectors is not None
            sink.add("vectors", take(part.segment.vectors, part.segment.token_starts, rows))
            ends += (ends[-1] + np.cumsum(np.diff(part.segment.token_starts)[rows])).tolist()
        sink.add("token_starts", np.array(ends, np.int64))
        return Header(dim)

    return write


def _coded(
    parts: Sequence[Part], beside: Sequence[WarpSegment], plan: Plan, dim: int, crew: Crew, on_progress: OnProgress | None
) -> Recipe:
    def write(sink: Sink) -> Header:
        codec = choose_codec(parts, beside, plan, crew)
        lengths, num_runs, runs = [], [], []
        residual_sum, num_done, num_documents = 0.0, 0, sum(len(part.rows) for part in parts)
        if plan.keep_vectors:
            sink.add("vectors", np.empty((0, dim), np.float16))

        def code(piece: tuple[Part, NDArray[np.int64]]) -> tuple[Part, NDArray[np.int64], _Block]:
            return (*piece, _copied(*piece) if _has(piece[0].segment, codec) else _encoded(*piece, codec))

        for part, rows, block in crew.map(code, blocks(parts)):
            for name in ("runs", "run_lengths", "codes", "scales"):
                sink.add(name, getattr(block, name))
            if plan.keep_vectors:
                assert part.segment.vectors is not None
                sink.add("vectors", take(part.segment.vectors, part.segment.token_starts, rows))
            lengths.append(block.lengths)
            num_runs.append(block.num_runs)
            runs.append(block.runs)
            residual_sum += block.mean_residual * int(block.lengths.sum())
            num_done += len(rows)
            if on_progress:
                on_progress(num_done, num_documents)
        token_starts, run_starts = _starts(lengths), _starts(num_runs)
        sink.add("token_starts", token_starts)
        sink.add("run_starts", run_starts)
        if run_starts[-1] > _LISTS_ABOVE_RUNS:
            lists = lists_of(np.concatenate(runs), run_starts, len(codec.centroids.levels))
            sink.add("list_starts", lists[0])
            sink.add("list_rows", lists[1])
        _add_codec(sink, codec)
        mean = residual_sum / int(token_starts[-1])
        return Header(dim, codec.bits, codec.scale_unit, codec.num_trained_tokens, codec.mean_residual, mean)

    return write


class _Block(NamedTuple):
    """Coded documents: tokens and runs of each document, then the arrays of ``segment.Tokens``."""

    lengths: NDArray[np.int64]
    num_runs: NDArray[np.int64]
    runs: NDArray[np.uint16]
    run_lengths: NDArray[np.uint8]
    codes: NDArray[np.uint8]
    scales: NDArray[np.uint8]
    mean_residual: float


def _has(segment: WarpSegment, codec: Codec) -> bool:
    return segment.codec is not None and segment.codec.name == codec.name


def _copied(part: Part, rows: NDArray[np.int64]) -> _Block:
    tokens = part.segment.tokens
    runs, run_lengths = (take(array, tokens.run_starts, rows) for array in (tokens.runs, tokens.run_lengths))
    codes, scales = (take(array, tokens.token_starts, rows) for array in (tokens.codes, tokens.scales))
    lengths, num_runs = (np.diff(starts)[rows] for starts in (tokens.token_starts, tokens.run_starts))
    return _Block(lengths, num_runs, runs, run_lengths, codes, scales, part.segment.header.mean_residual)


def _encoded(part: Part, rows: NDArray[np.int64], codec: Codec) -> _Block:
    lengths = np.diff(part.segment.token_starts)[rows]
    centroid, codes, scales, norms = codec.encode(codec.turn(part.segment.originals(rows)))
    document = np.repeat(np.arange(len(rows)), lengths)
    order = np.lexsort((centroid, document))
    centroid = centroid[order]
    first = np.ones(len(order), np.bool_)
    first[1:] = (centroid[1:] != centroid[:-1]) | (document[1:] != document[:-1])
    starts = np.flatnonzero(first)
    inside = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    starts = np.flatnonzero(inside % _LONGEST_RUN == 0)
    run_lengths = np.diff(np.append(starts, len(order))).astype(np.uint8)
    num_runs = np.bincount(document[starts], minlength=len(rows))
    mean = float(norms.mean(dtype=np.float64))
    return _Block(lengths, num_runs, centroid[starts], run_lengths, codes[order], scales[order], mean)


def _starts(lengths: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(lengths), dtype=np.int64)])


def _add_codec(sink: Sink, codec: Codec) -> None:
    parts = codec.centroids
    arrays: dict[str, NDArray[Any]] = {
        "basis": codec.basis,
        "levels": parts.levels,
        "steps": parts.steps,
        "cells": parts.cells,
        "cell_starts": parts.starts,
    }
    for name, array in arrays.items():
        sink.add(name, array)


def choose_codec(parts: Sequence[Part], beside: Sequence[WarpSegment], plan: Plan, crew: Crew) -> Codec:
    """The codec of most tokens of ``parts``, else of those ``beside``, if it fits; else a new one."""
    votes: dict[str, tuple[int, Codec]] = {}
    for segment, num_tokens in [(p.segment, p.num_tokens) for p in parts] + [(s, 0) for s in beside]:
        if segment.codec is not None:
            known = votes.get(segment.codec.name, (0, segment.codec))
            votes[segment.codec.name] = (known[0] + num_tokens, known[1])
    fitting = [(count, codec) for count, codec in votes.values() if _fits(codec, parts, plan)]
    if fitting:
        return max(fitting, key=lambda pair: (pair[0], pair[1].num_trained_tokens))[1]
    num_tokens = sum(part.num_tokens for part in parts)
    wanted = SAMPLE_PER_CENTROID * num_centroids_for(num_tokens)
    return train_codec(sample(parts, wanted, plan.seed), num_tokens, plan.bits, plan.dim, plan.seed, crew)


def _fits(codec: Codec, parts: Sequence[Part], plan: Plan) -> bool:
    num_tokens = sum(part.num_tokens for part in parts)
    dim = codec.basis.shape[0] if plan.dim is None else min(plan.dim, codec.basis.shape[0])
    if codec.bits != plan.bits or codec.basis.shape[1] != padded_dim(dim, plan.bits):
        return False
    return num_tokens < MAX_GROWTH * codec.num_trained_tokens and drift(codec, parts, plan.seed) <= MAX_DRIFT


def drift(codec: Codec, parts: Sequence[Part], seed: int) -> float:
    """Mean residual norm of ``parts`` under ``codec`` over that of the vectors which it was trained on.

    Infinite if some residual is longer than its codes can say, however few there are.
    """
    if not codec.mean_residual:
        return np.inf
    known = [(part.segment.header.mean_residual, part.num_tokens) for part in parts if _has(part.segment, codec)]
    foreign = [part for part in parts if not _has(part.segment, codec)]
    if foreign:
        norms = codec.residual_norms(codec.turn(sample(foreign, _DRIFT_SAMPLE, seed).astype(np.float32)))
        if norms.max() > codec.longest_residual:
            return np.inf
        known.append((float(norms.mean()), sum(part.num_tokens for part in foreign)))
    total = sum(num_tokens for _, num_tokens in known)
    return sum(mean * num_tokens for mean, num_tokens in known) / total / codec.mean_residual
