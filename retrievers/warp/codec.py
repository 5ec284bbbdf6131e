"""What turns token vectors into codes and back: a basis, centroids, steps of residuals. Knows vectors; knows no document and no file.

A vector is turned into the codec's space (an optional projection onto principal axes, then a random rotation, which spreads a residual
evenly over all dimensions), replaced by its nearest centroid and a residual, and the residual is coded in equal steps of a scale of its
own. The scale is the one that makes the decoded residual's error smallest for these codes (least squares), not the one that chose them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from rag.core import digest
from rag.kernels.crew import Crew
from rag.kernels.warp_score_codes import middles, num_fine, row_bytes, unpacked
from rag.retrievers.warp.centroids import Centroids, train_centroids

MAX_CENTROIDS = 65_536  # ids are uint16; reached at 17 million tokens
_BLOCK_ROWS = 65_536
STEP_DEVIATIONS = {2: 0.996, 4: 0.335, 5: 0.188, 8: 0.0308}
"""Step of the uniform quantiser with the least mean square error for a normal distribution, in standard deviations (Max 1960)."""


class Encoded(NamedTuple):
    """Centroid uint16 ``(n,)``, codes uint8 ``(n, row bytes)``, scales uint8 ``(n,)``, residual norms float32 ``(n,)``."""

    centroid: NDArray[np.uint16]
    codes: NDArray[np.uint8]
    scales: NDArray[np.uint8]
    norms: NDArray[np.float32]


@dataclass(frozen=True)
class Codec:
    """``basis`` float32 ``(dim of the encoder, dim of the codec)``; ``scale_unit``: what one step of a stored scale is.

    ``num_trained_tokens``: for how many tokens the number of centroids was chosen. ``mean_residual``: the mean residual norm of the
    sample, against which drift is measured.
    """

    basis: NDArray[np.float32]
    centroids: Centroids
    bits: int
    scale_unit: float
    num_trained_tokens: int
    mean_residual: float

    @cached_property
    def name(self) -> str:
        """Two codecs of one name give the same codes."""
        parts = (self.basis, self.centroids.levels, self.centroids.steps, self.centroids.cells, self.centroids.starts)
        content = hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()
        return digest("codec", str(self.bits), repr(self.scale_unit), content)

    @property
    def longest_residual(self) -> float:
        """The norm from which on the scale of a residual, a byte, is cut."""
        return float(255 * self.scale_unit / STEP_DEVIATIONS[self.bits] * self.basis.shape[1] ** 0.5)

    def turn(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """``(n, encoder dim)`` in the codec's space, ``(n, codec dim)``."""
        turned: NDArray[np.float32] = vectors @ self.basis
        return turned

    def turn_back(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """``(n, codec dim)`` in the encoder's space; what a projection left out stays out."""
        turned: NDArray[np.float32] = vectors @ self.basis.T
        return turned

    def residual_norms(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """How far each turned vector lies from its centroid, ``(n,)``."""
        norms: NDArray[np.float32] = np.linalg.norm(vectors - self.centroids.vectors[self.centroids.nearest(vectors)], axis=1)
        return norms

    def encode(self, vectors: NDArray[np.float32]) -> Encoded:
        """Of turned vectors ``(n, codec dim)``."""
        nearest = self.centroids.nearest(vectors)
        codes = np.empty((len(vectors), row_bytes(vectors.shape[1], self.bits)), np.uint8)
        scales, norms = np.empty(len(vectors), np.uint8), np.empty(len(vectors), np.float32)
        deviation, unit = np.float32(STEP_DEVIATIONS[self.bits]), np.float32(self.scale_unit)
        given, fine = np.ascontiguousarray(vectors), num_fine(vectors.shape[1], self.bits)
        _encode(given, nearest, self.centroids.vectors, self.bits, fine, deviation, unit, codes, scales, norms)
        return Encoded(nearest.astype(np.uint16), codes, scales, norms)

    def reference_encode(self, vectors: NDArray[np.float32]) -> Encoded:
        """What ``encode`` does, step by step, with the truly nearest centroids."""
        nearest = self.centroids.reference_nearest(vectors)
        left = vectors - self.centroids.vectors[nearest]
        levels, scales = _quantise(left, self.bits)
        steps = np.clip(np.rint(scales / np.float32(self.scale_unit)), 0, 255).astype(np.uint8)
        return Encoded(nearest.astype(np.uint16), _packed(levels, self.bits), steps, np.linalg.norm(left, axis=1))

    def decode(self, centroid: NDArray[np.uint16], codes: NDArray[np.uint8], scales: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The vectors that the codes stand for, in the codec's space, ``(n, codec dim)``."""
        import torch

        dim = self.basis.shape[1]
        levels = unpacked(torch.from_numpy(np.array(codes)), dim, self.bits).numpy().astype(np.float32)
        levels -= middles(dim, self.bits)
        levels *= (scales.astype(np.float32) * np.float32(self.scale_unit))[:, None]
        levels += self.centroids.vectors[centroid]
        return levels


def num_centroids_for(num_tokens: int) -> int:
    """The power of two at or below ``16 sqrt(num_tokens)`` (PLAID, arXiv 2205.09707)."""
    return int(min(2 ** int(np.log2(16 * max(num_tokens, 1) ** 0.5)), MAX_CENTROIDS))


def padded_dim(dim: int, bits: int) -> int:
    """The least dimension from ``dim`` up whose codes fill whole rows."""
    whole = {2: 64, 4: 32, 5: 32, 8: 16}[bits]
    return -(-dim // whole) * whole


def train_codec(sample: NDArray[np.float16], num_tokens: int, bits: int, dim: int | None, seed: int, crew: Crew) -> Codec:
    """A codec for ``num_tokens`` vectors like those of ``sample`` ``(n, encoder dim)``; with ``dim``, on that many principal axes.

    A quarter of the sample is the most centroids it can give. The projection is not normalised: inner products are to stay what they
    are, so that scores of coded and of plain segments can be compared.
    """
    basis = _basis(sample, dim, bits, seed)
    held_out, turned = _turned(sample, basis)
    del sample
    wanted = min(num_centroids_for(num_tokens), max(1, len(turned) // 4))
    centroids = train_centroids(turned, wanted, seed, crew)
    left = held_out - centroids.vectors[centroids.nearest(held_out)]
    # A token that lies much further out than all of the sample is cut to twice the largest scale seen.
    scale_unit = max(2 * float(_quantise(left, bits)[1].max()), 1e-6) / 255
    return Codec(basis, centroids, bits, scale_unit, num_tokens, float(np.linalg.norm(left, axis=1).mean()))


def _turned(sample: NDArray[np.float16], basis: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """In the codec's space: every twentieth vector, whose residuals tell what those of the corpus will be, and the others.

    All of a small sample are both.
    """
    own = np.zeros(len(sample), np.bool_)
    own[:: max(20, len(sample) // 25_000)] = True
    if len(sample) < 1000:
        whole: NDArray[np.float32] = sample.astype(np.float32) @ basis
        return whole, whole
    held_out, others = (np.empty((int(count), basis.shape[1]), np.float32) for count in (own.sum(), (~own).sum()))
    ends = [0, 0]
    for start in range(0, len(sample), _BLOCK_ROWS):
        block, mine = sample[start : start + _BLOCK_ROWS].astype(np.float32) @ basis, own[start : start + _BLOCK_ROWS]
        for which, (target, some) in enumerate(((held_out, block[mine]), (others, block[~mine]))):
            target[ends[which] : ends[which] + len(some)] = some
            ends[which] += len(some)
    return held_out, others


def _basis(sample: NDArray[np.float16], dim: int | None, bits: int, seed: int) -> NDArray[np.float32]:
    """Principal axes (all axes without ``dim``) times a random rotation into as many dimensions as fill whole rows of codes."""
    width = sample.shape[1] if dim is None else min(dim, sample.shape[1])
    padded = padded_dim(width, bits)
    rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((padded, padded)))[0][:width]
    if width == sample.shape[1]:
        return np.ascontiguousarray(rotation, np.float32)
    products = np.zeros((sample.shape[1], sample.shape[1]))
    for start in range(0, len(sample), _BLOCK_ROWS):
        block = sample[start : start + _BLOCK_ROWS].astype(np.float32)
        products += block.T @ block
    axes = np.linalg.eigh(products)[1][:, ::-1][:, :width]
    return np.ascontiguousarray(axes @ rotation, np.float32)


def _quantise(left: NDArray[np.float32], bits: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Levels ``(n, dim)``, even where the lowest bit is not kept, and the least-squares scale ``(n,)`` of each residual."""
    zero = middles(left.shape[1], bits)
    spacing = np.where(np.arange(left.shape[1]) < num_fine(left.shape[1], bits), np.float32(1), np.float32(2))
    step = np.sqrt((left**2).mean(1)) * np.float32(STEP_DEVIATIONS[bits])
    given = left / np.maximum(step, np.float32(1e-12))[:, None] + zero
    whole = np.clip(np.rint(given / spacing) * spacing, 0, 2**bits - spacing)
    levels = whole - zero
    scales = np.maximum((left * levels).sum(1) / (levels**2).sum(1), 0)
    return whole.astype(np.uint8), scales.astype(np.float32)


def _packed(levels: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """The codes of levels ``(n, dim)``; see ``rag.kernels.warp_score_codes.unpacked`` for the order."""
    if bits == 5:
        flags = np.packbits(levels[:, : num_fine(levels.shape[1], bits)] & 1, axis=1, bitorder="little")
        return np.concatenate([_packed(levels >> np.uint8(1), 4), flags], axis=1)
    parts = np.split(levels, 8 // bits, axis=1)
    packed = parts[0].copy()
    for number, part in enumerate(parts[1:], start=1):
        packed |= part << np.uint8(number * bits)
    return packed


@numba.njit(nogil=True, cache=True, fastmath=True)
def _encode(
    vectors: Any, nearest: Any, centroids: Any, bits: int, fine: int, deviation: Any, scale_unit: Any,
    codes: Any, scales: Any, norms: Any,
) -> None:  # fmt: skip  # pragma: no cover - compiled
    dim, width = vectors.shape[1], 4 if bits == 5 else bits
    num_bytes = dim * width // 8
    left, levels = np.empty(dim, np.float32), np.empty(dim, np.uint8)
    largest = np.float32(2**bits - 1)
    half = largest / np.float32(2)
    for row in range(len(vectors)):
        centroid = nearest[row]
        square = np.float32(0)
        for place in range(dim):
            left[place] = vectors[row, place] - centroids[centroid, place]
            square += left[place] * left[place]
        norms[row] = np.sqrt(square)
        inverse = np.float32(1) / max(np.sqrt(square / np.float32(dim)) * deviation, np.float32(1e-12))
        dot, level_square = np.float32(0), np.float32(0)
        for place in range(fine):
            level = max(min(np.rint(left[place] * inverse + half), largest), np.float32(0))
            levels[place] = np.uint8(np.int32(level))
            dot += left[place] * (level - half)
            level_square += (level - half) * (level - half)
        zero, two = half - np.float32(0.5), np.float32(2)
        for place in range(fine, dim):  # every other level
            level = two * max(min(np.rint((left[place] * inverse + zero) / two), (largest - 1) / two), np.float32(0))
            levels[place] = np.uint8(np.int32(level))
            dot += left[place] * (level - zero)
            level_square += (level - zero) * (level - zero)
        scales[row] = np.uint8(max(min(np.rint(dot / level_square / scale_unit), np.float32(255)), np.float32(0)))
        if bits == 5:
            for byte in range(fine // 8):
                flags = np.uint8(0)
                for place in range(8):
                    flags |= (levels[8 * byte + place] & np.uint8(1)) << place
                codes[row, num_bytes + byte] = flags
            for place in range(dim):
                levels[place] = levels[place] >> 1
        for byte in range(num_bytes):
            packed = levels[byte]
            for part in range(1, 8 // width):
                packed |= levels[part * num_bytes + byte] << (part * width)
            codes[row, byte] = packed
