"""How alike neighbouring stretches of words are, by random vectors of many dimensions. Knows words as strings; knows no text.

Hyperdimensional computing (Kanerva, "Hyperdimensional computing", Cognitive Computation 1, 2009): every word has a random vector
of +1 and -1 of so many dimensions that any two are all but orthogonal; the vector of several words is their sum (their bundle).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_BLOCK_BYTES = 8
_MAX_BLOCK_NUMBERS = 2**22
_MAX_GROUP_WORDS = 255
_NAME = b"hyperseg"


def window_cosines(units: Sequence[Sequence[str]], window: int, dimension: int) -> NDArray[np.float64]:
    """Cosine of the words of the ``window`` units before each place and those of the ``window`` after it, ``(units - 1,)``.

    ``units``: the words of each unit in reading order. Windows are cut short at the ends; where one has no words there is nothing to
    tell the sides apart, so the cosine is 1. The vectors are made and summed a block of dimensions at a time: memory is
    ``len(words) x dimension / 8`` bytes for the distinct words, and a block. All sums are of whole numbers, hence exact.
    """
    if len(units) < 2:
        return np.ones(0)
    vectors, ids, first = _packed(units, dimension)
    num_units, width = len(units), min(window, len(units))
    words_before = np.pad(first, width, mode="edge")
    num_words = words_before[width:] - words_before[:-width]
    products, squares = np.zeros(num_units - 1), np.zeros(num_units + width + 1)
    step = max(1, min(_BLOCK_BYTES, _MAX_BLOCK_NUMBERS // (8 * num_units)))
    for block in range(0, dimension // 8, step):
        ones = _ones_before(np.unpackbits(vectors[:, block : block + step], axis=1), ids, first, width)
        # row i: the sum of the vectors of the words of units i - width to i, those that there are
        sums = (2 * (ones[width:] - ones[:-width]) - num_words[:, None]).astype(np.float64)
        products += np.einsum("ij,ij->i", sums[1:num_units], sums[1 + width : num_units + width])
        squares += np.einsum("ij,ij->i", sums, sums)
    left_squares, right_squares = squares[1:num_units], squares[1 + width : num_units + width]
    lengths = np.sqrt(left_squares * right_squares)
    return np.divide(products, lengths, out=np.ones(num_units - 1), where=lengths > 0)


def _ones_before(bits: NDArray[np.uint8], ids: NDArray[np.int64], first: NDArray[np.int64], width: int) -> NDArray[np.int32]:
    """How many words before each unit have a 1 in each dimension, ``(width + units + 1 + width, dimensions)``, ends repeated.

    ``bits``: ``(distinct words, dimensions)``. Eight dimensions are added at once as the bytes of one 64-bit number, no more than
    255 words at a time so that none overflows.
    """
    num_words = np.diff(first)
    num_units = len(num_words)
    ones = np.zeros((num_units + 1 + 2 * width, bits.shape[1]), dtype=np.int32)
    counts = ones[width + 1 : width + 1 + num_units]
    groups = -(-num_words // _MAX_GROUP_WORDS)
    if len(ids):
        unit = np.repeat(np.arange(num_units), groups)
        within = np.arange(len(unit)) - np.repeat(np.cumsum(groups) - groups, groups)
        sums = np.add.reduceat(bits.view(np.uint64)[ids], first[unit] + within * _MAX_GROUP_WORDS, axis=0).view(np.uint8)
        if groups.max() > 1:
            np.add.at(counts, unit, sums)
        else:
            counts[unit] = sums
    np.cumsum(counts, axis=0, out=counts)
    ones[width + 1 + num_units :] = ones[width + num_units]
    return ones


def window_cosines_reference(units: Sequence[Sequence[str]], window: int, dimension: int) -> NDArray[np.float64]:
    """What ``window_cosines`` must equal, place by place."""

    def bundle(unit: Sequence[Sequence[str]]) -> NDArray[np.float64]:
        vectors = [word_vector(word, dimension) for words in unit for word in words]
        return np.sum(vectors, axis=0, dtype=np.float64) if vectors else np.zeros(dimension)

    cosines = []
    for place in range(1, len(units)):
        left, right = bundle(units[max(place - window, 0) : place]), bundle(units[place : place + window])
        length = float(np.sqrt((left @ left) * (right @ right)))
        cosines.append(float(left @ right) / length if length else 1.0)
    return np.array(cosines)


def word_vector(word: str, dimension: int) -> NDArray[np.int8]:
    """+1 and -1 in ``dimension`` (a multiple of 8) places: the bits of SHAKE-128 of the word, the same everywhere and always."""
    return np.unpackbits(np.frombuffer(_digest(word, dimension), dtype=np.uint8)).astype(np.int8) * np.int8(2) - np.int8(1)


def _digest(word: str, dimension: int) -> bytes:
    return hashlib.shake_128(_NAME + word.encode("utf-8", "surrogatepass")).digest(dimension // 8)


def _packed(units: Sequence[Sequence[str]], dimension: int) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """The vectors of the distinct words as bits, the number of each word in reading order, and where each unit's words begin."""
    known: dict[str, int] = {}
    ids = [known.setdefault(word, len(known)) for words in units for word in words]
    bits = b"".join(_digest(word, dimension) for word in known)
    vectors = np.frombuffer(bits, dtype=np.uint8).reshape(len(known), dimension // 8)
    return vectors, np.array(ids, dtype=np.int64), np.cumsum([0, *map(len, units)])
