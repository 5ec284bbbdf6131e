"""Chunks that follow where things stand on the page and what they mean. Knows the graph of elements; knows no file format."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from rag.chunkers.assemble import check_limit, chunks_of, within_limit
from rag.chunkers.context import ContextWriter
from rag.chunkers.distance import HEADING_LINES
from rag.chunkers.layout import DEEPEST_LEVEL, Layout
from rag.chunkers.pack import spans_of, split
from rag.chunkers.ruler import Ruler
from rag.chunkers.s2 import clusters, cut_in_sequence, num_clusters, runs, s2_weights
from rag.chunkers.segmentation import best_runs
from rag.chunkers.spatial_graph import graph_weights, objective, positions
from rag.chunkers.spatial_nodes import HEADINGS, Headings, Node, NodeMaker
from rag.chunkers.together import Work, together
from rag.core import Chunk, Document, Encoder, Span, Tokenizer

Mode = Literal["layout", "s2"]
MODES: tuple[str, ...] = get_args(Mode)

MAX_CLUSTERED_NODES = 1_000
"""Spectral clustering costs the square of its nodes in memory; a longer document is clustered in stretches of so many."""


class _Run(NamedTuple):
    """Nodes that make one chunk, ``last`` exclusive; ``is_section``: all of a section."""

    first: int
    last: int
    is_section: bool


class SpatialChunker:
    """Elements that stand close together and mean the same, at most ``max_tokens`` tokens of them in reading order.

    Lossless: every character that is not blank is in a chunk.

    ``mode: layout``: a graph over the elements in reading order. A pair weighs ``(1 - semantic_weight) / (1 + distance in lines)
    + semantic_weight * cosine``; distance adds up along the reading order, and across pages and columns there is none but from
    the last element to the first of the next (without boxes, every element is one line from the next). Dynamic programming
    finds the contiguous runs of the greatest sum of ``weight - resolution * mean weight``, with as few as possible under
    ``min_tokens`` (by default a fifth of ``max_tokens``). A caption stays with its table or figure and the head of a table
    with its first row, if both fit; a table row is cut only if it alone is above the limit; an element above the limit is cut
    between sentences, rows or items first. ``headings``:

    - ``ignore``: a heading is an element like any other.
    - ``link``: a heading stays with what follows it, and is four lines farther from what is above it than it looks.
    - ``section``: besides, a heading of ``section_level`` or above starts a chunk; a whole section under ``min_tokens`` goes
      with the neighbour that it weighs more with (a section below it first) if the two fit together.

    ``mode: s2``: the published method (arXiv 2501.05485), for comparison: see ``rag.chunkers.s2``. Its clusters are no
    stretches of text; each contiguous run of one is a chunk here, and ``meta["cluster"]`` says which runs belong together.
    Options about headings, ``min_tokens``, ``semantic_weight`` and ``resolution`` do nothing in this mode.

    The context is that of the structure chunker: title, headings and table head, at most ``max_context_tokens`` tokens.
    """

    def __init__(
        self,
        encoder: Encoder,
        tokenizer: Tokenizer,
        mode: Mode = "layout",
        max_tokens: int = 200,
        min_tokens: int | None = None,
        headings: Headings = "section",
        section_level: int = 3,
        semantic_weight: float = 0.5,
        resolution: float = 0.5,
        max_context_tokens: int = 40,
    ) -> None:
        self.min_tokens = max_tokens // 5 if min_tokens is None else min_tokens
        check_limit(max_tokens, min_tokens=self.min_tokens)
        if mode not in MODES:
            raise ValueError(f"mode={mode!r}: must be one of {', '.join(MODES)}")
        if headings not in HEADINGS:
            raise ValueError(f"headings={headings!r}: must be one of {', '.join(HEADINGS)}")
        if not 0 <= section_level <= DEEPEST_LEVEL:
            raise ValueError(f"section_level={section_level}: must be between 0 (no section is kept apart) and {DEEPEST_LEVEL}")
        if not 0.0 <= semantic_weight <= 1.0:
            raise ValueError(f"semantic_weight={semantic_weight}: must be between 0 (layout alone) and 1 (meaning alone)")
        if not 0.0 <= resolution < float("inf"):
            raise ValueError(f"resolution={resolution}: must be at least 0 (as large as the limit allows)")
        if max_context_tokens < 0:
            raise ValueError(f"max_context_tokens={max_context_tokens}: must be at least 0")
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.mode = mode
        self.max_tokens = max_tokens
        self.headings = headings
        self.section_level = section_level
        self.semantic_weight = semantic_weight
        self.resolution = resolution
        self.max_context_tokens = max_context_tokens

    def chunk(self, document: Document) -> list[Chunk]:
        return self.chunk_many([document])[0]

    def chunk_many(self, documents: Sequence[Document]) -> list[list[Chunk]]:
        return together(map(self._work, documents), self.encoder.encode_documents)

    def _work(self, document: Document) -> Work[str, list[Chunk]]:
        text = document.text
        ruler, layout = Ruler(text, self.tokenizer), Layout(document)
        maker = NodeMaker(document, layout, ruler, self.max_tokens)
        nodes = maker.nodes(self.headings if self.mode == "layout" else "ignore", self.section_level)
        if not nodes:
            return []
        vectors: NDArray[np.float32] = yield [node.span.of(text).strip() for node in nodes]
        sizes = np.array([node.num_tokens for node in nodes], dtype=np.int64)
        published = self._published(nodes, vectors, sizes) if self.mode == "s2" else None
        firsts = self._layout_runs(nodes, vectors, sizes) if published is None else runs(published)
        places = [nodes[first].span.start for first in firsts]

        def recut(span: Span, max_tokens: int) -> list[Span]:
            return spans_of(split(ruler, *span, maker.levels, max_tokens), span.end)

        def meta(span: Span) -> Mapping[str, Any]:
            found = layout.meta(span)
            if published is not None:
                found["cluster"] = int(published[firsts[bisect_right(places, span.start) - 1]])
            return found

        spans = within_limit(text, spans_of(places, len(text)), self.tokenizer, self.max_tokens, recut)
        return chunks_of(document, spans, meta, ContextWriter(document, layout, self.tokenizer, self.max_context_tokens))

    def _layout_runs(self, nodes: list[Node], vectors: NDArray[np.float32], sizes: NDArray[np.int64]) -> list[int]:
        """The nodes at which a chunk starts."""
        places = positions(nodes, 0.0 if self.headings == "ignore" else HEADING_LINES)
        weights = graph_weights(places, vectors, sizes, self.max_tokens, self.semantic_weight)
        worth = objective(weights, sizes, self.resolution)
        allowed = np.array([not node.is_tied for node in nodes], dtype=np.bool_)
        found: list[_Run] = []
        for first, last in pairwise([0, *(number for number, node in enumerate(nodes) if node.is_section), len(nodes)]):
            part = slice(first, last)
            starts = best_runs(worth[part], sizes[part], self.max_tokens, allowed[part], self.min_tokens)
            found += [_Run(first + start, first + end, len(starts) == 1) for start, end in pairwise([*starts, last - first])]
        return [run.first for run in self._joined(nodes, weights, sizes, found)]

    def _joined(self, nodes: list[Node], weights: NDArray[np.float64], sizes: NDArray[np.int64], found: list[_Run]) -> list[_Run]:
        """The runs, each whole section under ``min_tokens`` joined to a neighbour if the two fit together."""
        before = np.concatenate([[0], np.cumsum(sizes)])
        joined: list[_Run] = []
        for number, run in enumerate(found):
            following = found[number + 1] if number + 1 < len(found) else None
            is_small = run.is_section and before[run.last] - before[run.first] < self.min_tokens
            fits_last = bool(joined) and before[run.last] - before[joined[-1].first] <= self.max_tokens
            fits_next = following is not None and before[following.last] - before[run.first] <= self.max_tokens
            if is_small and following and fits_next and (not fits_last or _prefers_next(nodes, weights, run)):
                found[number + 1] = _Run(run.first, following.last, following.is_section)
            elif is_small and fits_last:
                joined[-1] = _Run(joined[-1].first, run.last, joined[-1].is_section)
            else:
                joined.append(run)
        return joined

    def _published(self, nodes: list[Node], vectors: NDArray[np.float32], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
        """The chunk that the published method puts each node in, ``(nodes,)``."""
        found: list[NDArray[np.int64]] = []
        for first in range(0, len(nodes), MAX_CLUSTERED_NODES):
            part = slice(first, first + MAX_CLUSTERED_NODES)
            weights = s2_weights([node.block.element.bbox for node in nodes[part]], vectors[part])
            labels = clusters(weights, num_clusters(weights, int(sizes[part].sum()), self.max_tokens))
            cut = cut_in_sequence(labels, sizes[part], self.max_tokens)
            found.append(cut + (found[-1].max() + 1 if found else 0))
        return np.concatenate(found)


def _prefers_next(nodes: list[Node], weights: NDArray[np.float64], run: _Run) -> bool:
    """Whether a small section belongs to the following one: that lies below its heading, or weighs more with it."""
    own, following = nodes[run.first].block.path, nodes[run.last].block.path
    if len(following) > len(own) and following[: len(own)] == own:
        return True
    to_last, to_next = (np.nan_to_num(weights[node, 1], nan=-np.inf) for node in (run.first - 1, run.last - 1))
    return bool(to_next > to_last)
