"""Keys, vectors and a graph in files. Knows the layout on disk; knows no model, chunk or search.

keys.npy       int64 (rows,), ascending
vectors.npy    float32 or float16 (rows, dim), unit length
graph.faiss    only in segments that are too large to search exactly (see dense_graph)
manifest.json  {"format": 1, "num_rows", "dim", "store", "fingerprint", "graph"}
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib.format import dtype_to_descr, write_array_header_1_0
from numpy.typing import NDArray

from rag.errors import DamagedIndex, IndexMismatch
from rag.retrievers.dense_search import Vectors

Store = Literal["float32", "float16"]

_FORMAT = 1
_BLOCK_ROWS = 1 << 12


class DenseSegment:
    """Vectors by ascending key. ``graph`` is a faiss index, or ``None`` for a segment that is searched exactly.

    A segment that ``merge`` made has its rows still in the files of others, and gets its graph when it is saved.
    """

    def __init__(
        self, keys: NDArray[np.int64], vectors: Vectors, fingerprint: str, store: Store, recipe: str | None, graph: Any = None
    ) -> None:
        self._keys = keys
        self.vectors = vectors
        self.fingerprint = fingerprint
        self.store: Store = store
        self.recipe = recipe
        self.graph = graph

    @property
    def keys(self) -> NDArray[np.int64]:
        return self._keys

    @property
    def dim(self) -> int:
        return int(self.vectors.shape[1])

    def save(self, folder: Path) -> None:
        """Writes block by block: memory stays bounded however large the segment is (but for a graph, which is built in memory)."""
        num_rows = len(self._keys)
        np.save(folder / "keys.npy", self._keys)
        path, dtype = folder / "vectors.npy", np.dtype(self.store)
        with path.open("wb") as file:  # not through a map: every page written there would count as resident until the end
            header = {"descr": dtype_to_descr(dtype), "fortran_order": False, "shape": (num_rows, self.dim)}
            write_array_header_1_0(file, header)
            for start in range(0, num_rows, _BLOCK_ROWS):
                file.write(np.ascontiguousarray(self.vectors[start : start + _BLOCK_ROWS], dtype).data)
        if self.recipe is not None:
            from rag.retrievers.dense_graph import write_graph

            graph = self.graph if self.graph is not None else self.build_graph(_load_array(path, dtype, (num_rows, self.dim)))
            write_graph(graph, folder / "graph.faiss")
        manifest: dict[str, int | str | None] = {"format": _FORMAT, "num_rows": num_rows, "dim": self.dim, "store": self.store}
        manifest |= {"fingerprint": self.fingerprint, "graph": self.recipe}
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")

    def build_graph(self, vectors: Vectors | None = None) -> Any:
        """The graph that ``recipe`` asks for."""
        from rag.retrievers.dense_graph import build_graph, num_sample_rows

        assert self.recipe is not None
        vectors = self.vectors if vectors is None else vectors
        num_rows = len(self._keys)
        # Evenly spread rows: the same graph for the same rows, whoever builds it.
        sample = np.linspace(0, num_rows - 1, num_sample_rows(self.recipe, num_rows)).astype(np.int64)
        return build_graph(self.recipe, self.dim, vectors[sample].astype(np.float32), _blocks(vectors, num_rows))


def load_segment(folder: Path, fingerprint: str) -> DenseSegment:
    """Opens what ``save`` wrote; vectors and graph stay on disk until they are read.

    Raises ``DamagedIndex`` if a file is missing, cut short or does not fit the others, and ``IndexMismatch`` if the segment
    was made by another encoder or by a newer format.
    """
    manifest = _read_manifest(folder)
    if manifest["fingerprint"] != fingerprint:
        raise IndexMismatch(f"{folder} holds vectors of another encoder; restore its settings or ingest anew")
    num_rows, dim, store, recipe = (manifest[name] for name in ("num_rows", "dim", "store", "graph"))
    keys = _load_array(folder / "keys.npy", np.dtype(np.int64), (num_rows,))
    vectors = _load_array(folder / "vectors.npy", np.dtype(store), (num_rows, dim))
    if num_rows > 1 and not np.all(keys[1:] > keys[:-1]):
        raise DamagedIndex(folder / "keys.npy", "the keys do not ascend")
    graph = None
    if recipe is not None:
        from rag.retrievers.dense_graph import read_graph

        path = folder / "graph.faiss"
        try:
            graph = read_graph(path)
        except RuntimeError as error:
            raise DamagedIndex(path, f"faiss cannot read it: {str(error).splitlines()[0]}") from error
        if (graph.ntotal, graph.d) != (num_rows, dim):
            raise DamagedIndex(path, f"it holds {graph.ntotal} x {graph.d} vectors, the manifest says {num_rows} x {dim}")
    return DenseSegment(keys, vectors, fingerprint, store, recipe, graph)


class MergedRows:
    """Rows of several sources in a new order, read when asked for: ``vectors[i] == sources[source[i]][row[i]]``."""

    def __init__(self, sources: Sequence[Vectors], source: NDArray[np.int32], row: NDArray[np.int64], dim: int) -> None:
        self._sources = sources
        self._source = source
        self._row = row
        self._dim = dim

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self._row), self._dim)

    def __getitem__(self, rows: slice | NDArray[np.int64], /) -> NDArray[np.float32 | np.float16]:
        source, row = self._source[rows], self._row[rows]
        out = np.empty((len(row), self._dim), np.float32)
        for number in np.unique(source):
            here = source == number
            out[here] = self._sources[number][row[here]]
            _let_go_of_pages(self._sources[number])
        return out


def _let_go_of_pages(vectors: Vectors) -> None:
    """A merge reads every source once, block by block: pages that were read need not stay in memory."""
    pages = getattr(vectors, "base", None)
    if isinstance(pages, mmap.mmap):
        pages.madvise(mmap.MADV_DONTNEED)


def _blocks(vectors: Vectors, num_rows: int) -> Iterator[NDArray[np.float32]]:
    for start in range(0, num_rows, _BLOCK_ROWS):
        yield vectors[start : start + _BLOCK_ROWS].astype(np.float32)


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DamagedIndex(path, f"it cannot be read: {error}") from error
    wanted = {"format": int, "num_rows": int, "dim": int, "store": str, "fingerprint": str, "graph": str | None}
    if not isinstance(manifest, dict):
        raise DamagedIndex(path, "it is not a JSON object")
    if isinstance(manifest.get("format"), int) and manifest["format"] > _FORMAT:
        raise IndexMismatch(f"{path} has format {manifest['format']}; this version reads up to {_FORMAT}")
    for name, kind in wanted.items():
        if name not in manifest or not isinstance(manifest[name], kind):
            raise DamagedIndex(path, f"{name!r} is missing or of the wrong type")
    if manifest["store"] not in ("float32", "float16") or manifest["num_rows"] < 0 or manifest["dim"] < 1:
        raise DamagedIndex(path, "its numbers make no sense")
    return manifest


def _load_array(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r" if shape[0] else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DamagedIndex(path, f"it cannot be read: {error}") from error
    if array.dtype != dtype or array.shape != shape:
        raise DamagedIndex(path, f"it holds {array.dtype} {array.shape}, the manifest says {dtype} {shape}")
    found: NDArray[Any] = array
    return found
