"""Approximate neighbours of unit vectors by faiss. Knows rows and graphs; knows no key, chunk or model.

| live rows of a segment | built | why |
| --- | --- | --- |
| up to ``exact_below`` (50,000) | nothing | exact search reads 77 MB at 384 dimensions: a few milliseconds, recall 1, no build |
| up to 2,000,000 | HNSW, 32 links, over 8-bit copies | logarithmic search; ``dim + 270`` bytes a row, in memory or mapped |
| above | IVF over 8-bit copies, ``4 sqrt(rows)`` lists | an HNSW build takes hours and random reads; lists are built and read in order |

The 8-bit copies only find candidates. Scores always come from the stored vectors (``dense_search.rescore``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import faiss as _faiss
import numpy as np
from numpy.typing import NDArray

faiss: Any = _faiss  # the type stubs of the wheel know neither the C++ classes' fields nor its NumPy wrappers

Floats = NDArray[np.float32]

IVF_FROM_ROWS = 2_000_000
_LINKS = 32
_EF_CONSTRUCTION = 100
_TRAIN_ROWS_PER_LIST = 64


def recipe(num_rows: int, exact_below: int) -> str | None:
    """What to build for that many rows, in the words of ``faiss.index_factory``; ``None``: nothing, search exactly."""
    if num_rows <= exact_below:
        return None
    if num_rows <= IVF_FROM_ROWS:
        return f"HNSW{_LINKS}_SQ8"
    return f"IVF{int(4 * math.sqrt(num_rows))},SQ8"


def build_graph(words: str, dim: int, sample: Floats, blocks: Iterable[Floats]) -> Any:
    """The faiss index that ``words`` describe: trained on ``sample``, then filled block by block, in row order."""
    graph = faiss.index_factory(dim, words, faiss.METRIC_INNER_PRODUCT)
    if words.startswith("HNSW"):
        graph.hnsw.efConstruction = _EF_CONSTRUCTION
    graph.train(np.ascontiguousarray(sample))
    for block in blocks:
        graph.add(np.ascontiguousarray(block))
    return graph


def num_sample_rows(words: str, num_rows: int) -> int:
    """How many rows ``build_graph`` wants for training."""
    if words.startswith("IVF"):
        return min(num_rows, _TRAIN_ROWS_PER_LIST * int(4 * math.sqrt(num_rows)))
    return min(num_rows, 20_000)  # the range of each component


def write_graph(graph: Any, path: Path) -> None:
    """Writes the file that ``read_graph`` opens."""
    faiss.write_index(graph, str(path))


def read_graph(path: Path) -> Any:
    """Opens a graph, memory-mapped where this faiss can. Raises ``RuntimeError`` (faiss's own) if the file is damaged."""
    flags = getattr(faiss, "IO_FLAG_MMAP_IFC", 0) | faiss.IO_FLAG_READ_ONLY
    return faiss.read_index(str(path), flags)


def candidates(graph: Any, queries: Floats, num: int, allowed: NDArray[np.bool_] | None, ef_search: int) -> NDArray[np.int64]:
    """Rows that look nearest, ``(queries, num)``, -1 where there are no more. Only allowed rows appear.

    The beam widens as fewer rows are allowed: a walk meets allowed rows in proportion to their share.
    """
    share = 1.0 if allowed is None else max(float(allowed.mean()), 0.02)
    selector: dict[str, Any] = {}
    if allowed is not None:
        bits = np.packbits(allowed, bitorder="little")
        selector["sel"] = faiss.IDSelectorBitmap(bits)
    if isinstance(graph, faiss.IndexHNSW):
        parameters = faiss.SearchParametersHNSW(efSearch=int(max(ef_search, num) / share), **selector)
    else:
        lists = min(graph.nlist, max(1, int(ef_search / 4 / share)))
        parameters = faiss.SearchParametersIVF(nprobe=lists, **selector)
    _, rows = graph.search(np.ascontiguousarray(queries), num, params=parameters)
    return np.asarray(rows, np.int64)
