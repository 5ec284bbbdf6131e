"""How well chunks stand alone, as a language model sees it: boundary clarity and chunk stickiness. Needs no gold data.

Both are diagnostics of MoC (arXiv 2503.09600, section 3). Both move with the length of the chunks, so they compare chunkers only at
equal mean length. Knows the LM protocol and texts; knows no chunker and no question.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rag.core import LM, TokenLogprobs
from rag.errors import ModelError

SEPARATOR = "\n\n"
BATCH = 64
"""Texts per call of the model."""

Reading = Mapping[tuple[int, int], float]
"""Characters of a token inside one chunk (without blanks before it) -> its ``-log p`` in nats."""


def boundary_clarity(lm: LM, chunks: Sequence[str]) -> list[float]:
    """``BC(q, d) = ppl(q|d) / ppl(q)`` for each pair of consecutive chunks ``d, q``, ``(chunks - 1,)``.

    ``ppl`` is ``exp`` of the mean of ``-log p`` over the tokens of ``q``. Near 1: ``q`` is as hard with what stands before it as without
    it, so the boundary is clear; near 0: ``q`` depends on ``d``. Above 1 is possible (``d`` misleads). The perplexity of ``q`` alone is read
    after a blank line; only tokens that both readings have count (the first may have no probability in one of them), and no blank ones;
    nan if there are none. (The published code divides the mean ``-log p`` instead, which is another number.)

    Reads each chunk twice. Raises ``ModelError`` if the model gives no log-probabilities.
    """
    return _clarities(lm, chunks, [(number - 1, number) for number in range(1, len(chunks))])


def dependence(lm: LM, chunks: Sequence[str], complete: bool = True) -> NDArray[np.float64]:
    """``edge[i, j] = (ppl(j) - ppl(j|i)) / ppl(j) = 1 - BC(j, i)``, ``(chunks, chunks)``: how much chunk ``i`` helps to expect chunk ``j``.

    ``complete``: for all ordered pairs, ``n * (n - 1)`` readings of two chunks each; else only for ``i < j``, half of them. The other
    entries (and the diagonal) are nan. Raises ``ModelError`` if the model gives no log-probabilities.
    """
    num = len(chunks)
    pairs = [(i, j) for i in range(num) for j in range(num) if i < j or (complete and i != j)]
    edges = np.full((num, num), np.nan)
    for (i, j), clarity in zip(pairs, _clarities(lm, chunks, pairs), strict=True):
        edges[i, j] = 1 - clarity
    return edges


def stickiness(edges: NDArray[np.float64], threshold: float = 0.8, distance_weight: float = 0.0) -> float:
    """Chunk stickiness: the entropy, in bits, of the degrees of the graph that ``edges`` (from ``dependence``) make; lower is better.

    ``CS = -sum_i (h_i / 2m) log2(h_i / 2m)`` with ``h_i`` the degree of chunk ``i`` and ``m`` the number of edges. An edge is kept if
    ``edges[i, j] - distance_weight * |i - j| / (n - 1)`` is above ``threshold``. No edge: 0.0. The threshold is that of the paper; in the
    published code it is applied to ``ppl(j|i) / ppl(j)``, which keeps the edges between *independent* chunks.
    """
    num = len(edges)
    places = np.arange(num)
    distance = np.abs(places[:, None] - places[None, :]) / max(num - 1, 1)
    kept = np.nan_to_num(edges - distance_weight * distance, nan=-math.inf) > threshold
    degrees = (kept.sum(0) + kept.sum(1)).astype(np.float64)
    if not degrees.any():
        return 0.0
    shares = degrees[degrees > 0] / degrees.sum()
    return max(0.0, float(-(shares * np.log2(shares)).sum()))


def chunk_stickiness(
    lm: LM, chunks: Sequence[str], threshold: float = 0.8, complete: bool = True, distance_weight: float = 0.0
) -> float:
    """``stickiness(dependence(lm, chunks, complete), threshold, distance_weight)``. ``complete=False`` is the sequence-aware variant."""
    return stickiness(dependence(lm, chunks, complete), threshold, distance_weight)


def _clarities(lm: LM, chunks: Sequence[str], pairs: Sequence[tuple[int, int]]) -> list[float]:
    """``BC`` of each pair ``(i, j)``: chunk ``j`` after chunk ``i``, against chunk ``j`` alone."""
    alone: dict[int, Reading] = {}
    wanted = sorted({j for _, j in pairs})
    for first in range(0, len(wanted), BATCH):
        batch = wanted[first : first + BATCH]
        alone |= zip(batch, _readings(lm, [("", chunks[j]) for j in batch]), strict=True)
    clarities: list[float] = []
    for first in range(0, len(pairs), BATCH):
        block = pairs[first : first + BATCH]
        after = _readings(lm, [(chunks[i], chunks[j]) for i, j in block])
        clarities += [_ratio(given, alone[j]) for given, (_, j) in zip(after, block, strict=True)]
    return clarities


def _ratio(given: Reading, alone: Reading) -> float:
    shared = given.keys() & alone.keys()
    if not shared:
        return math.nan
    return math.exp(math.fsum(given[token] - alone[token] for token in shared) / len(shared))


def _readings(lm: LM, pairs: Sequence[tuple[str, str]]) -> list[Reading]:
    """Of each pair ``(before, text)`` the tokens of ``text``, as read after ``before`` and a blank line."""
    heads = [before.strip() + SEPARATOR for before, _ in pairs]
    found = lm.logprobs([head + text.strip() for head, (_, text) in zip(heads, pairs, strict=True)])
    texts = [text.strip() for _, text in pairs]
    return [_reading(each, head, text) for each, head, text in zip(found, heads, texts, strict=True)]


def _reading(found: TokenLogprobs, head: str, text: str) -> Reading:
    if len(found.spans) > 1 and all(map(math.isnan, found.logprobs)):
        raise ModelError("boundary clarity needs log-probabilities of a text; the language model gave none")
    whole = head + text
    reading: dict[tuple[int, int], float] = {}
    for (start, end), logprob in zip(found.spans, found.logprobs, strict=True):
        piece = whole[start:end]
        begin = start + len(piece) - len(piece.lstrip()) - len(head)
        if begin >= 0 and piece.strip() and not math.isnan(logprob):
            token = (begin, end - len(head))
            reading[token] = reading.get(token, 0.0) - logprob  # several tokens may share a character
    return reading
