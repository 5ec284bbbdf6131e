"""Made-up token vectors, codecs and codes for the tests of the multi-vector engine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from rag.kernels.crew import Crew
from rag.kernels.warp_score_codes import Coded
from rag.retrievers.warp.build import Plan, _encoded, plain_segment
from rag.retrievers.warp.codec import Codec, train_codec
from rag.retrievers.warp.parts import Part


def unit(rng: np.random.Generator, num_rows: int, dim: int) -> NDArray[np.float32]:
    """Random unit vectors."""
    rows = rng.standard_normal((num_rows, dim)).astype(np.float32)
    unit_rows: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit_rows


def documents(rng: np.random.Generator, num_documents: int, dim: int, num_topics: int = 40) -> list[NDArray[np.float32]]:
    """Documents of 1 to 30 tokens around a few topics, so that some are like others."""
    topics = unit(rng, num_topics, dim)
    found = []
    for _ in range(num_documents):
        own = topics[rng.integers(0, num_topics, 4)]
        rows = own[rng.integers(0, 4, rng.integers(1, 31))] + 0.5 * unit(rng, 1, dim) * 0.3
        rows = rows + 0.5 * unit(rng, len(rows), dim)
        found.append((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))
    return found


def plan(bits: int = 4, dim: int | None = None, exact_below: int = 0, keep_vectors: bool = False) -> Plan:
    return Plan(bits, dim, exact_below, keep_vectors, 0)


def coded(rng: np.random.Generator, bits: int, num_documents: int, dim: int) -> tuple[Codec, Coded]:
    """A codec and documents coded with it."""
    given = documents(rng, num_documents, dim)
    codec = train_codec(np.concatenate(given).astype(np.float16), sum(map(len, given)), bits, None, 0, Crew(1))
    segment = plain_segment(np.arange(num_documents), given, dim, "made")
    block = _encoded(Part(segment, np.arange(num_documents)), np.arange(num_documents), codec)
    starts = np.concatenate([[0], np.cumsum(block.lengths)])
    run_starts = np.concatenate([[0], np.cumsum(block.num_runs)])
    arrays = (starts, run_starts, block.runs, block.run_lengths, block.codes, block.scales)
    first, second, third, fourth, fifth, sixth = map(torch.from_numpy, arrays)
    return codec, Coded(first, second, third, fourth, fifth, sixth, codec.scale_unit, bits, codec.basis.shape[1])


def maxsim(given: Sequence[NDArray[np.float32]], query: NDArray[np.float32]) -> NDArray[np.float64]:
    """Exact scores of whole documents, in float64."""
    return np.array([(query.astype(np.float64) @ vectors.astype(np.float64).T).max(1).sum() for vectors in given])
