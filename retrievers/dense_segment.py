"""Keys, vectors, bits and a graph in files. Knows the layout on disk; knows no model and no chunk.

keys.npy       int64 (rows,), ascending
vectors.npy    float32, float16 or int8 (rows, dim), unit length
scales.npy     float16 (rows,): what the int8 rows are multiplied by
bits.npy       uint64 (rows, ceil(dim / 64)): the signs, only where ``store`` is binary
graph.faiss    only in segments that are too large to search exactly (see dense_graph)
manifest.json  {"format": 1, "num_rows", "dim", "store", "fingerprint", "graph", "recall_estimate"}

| store | bytes a row, 384 wide | read by a search |
| --- | --- | --- |
| float32 | 1536 | all of them, or a graph's 8-bit copies |
| float16 | 768 | the same |
| int8 | 386 | the same |
| binary | 434 | 48 of each row, 386 of the candidates |
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.lib.format import dtype_to_descr, write_array_header_1_0
from numpy.typing import NDArray

from rag.core import Facts
from rag.errors import DamagedIndex, IndexMismatch
from rag.retrievers.dense_codes import Int8Rows, Words, to_bits, to_int8
from rag.retrievers.dense_find import Effort, recall_estimate
from rag.retrievers.dense_search import Vectors

Store = Literal["float32", "float16", "int8", "binary"]

_FORMAT = 1
_BLOCK_ROWS = 1 << 12


class DenseSegment:
    """Vectors by ascending key. ``graph`` is a faiss index, or ``None`` for a segment that is searched without one.

    A segment that ``merge`` made has its rows still in the files of others, and gets its bits and its graph when it is saved.
    ``effort`` is what its recall is estimated for.
    """

    def __init__(
        self,
        keys: NDArray[np.int64],
        vectors: Vectors,
        fingerprint: str,
        store: Store,
        recipe: str | None,
        effort: Effort,
        *,
        bits: Words | None = None,
        graph: Any = None,
        recall: float | None = None,
    ) -> None:
        self._keys = keys
        self.vectors = vectors
        self.fingerprint = fingerprint
        self.store: Store = store
        self.recipe = recipe
        self.bits = bits
        self.graph = graph
        self._effort = effort
        self._recall = recall

    @property
    def keys(self) -> NDArray[np.int64]:
        return self._keys

    @property
    def dim(self) -> int:
        return int(self.vectors.shape[1])

    def facts(self) -> Facts:
        """``recall_estimate``: see ``dense_find.recall_estimate``; there once the segment is saved."""
        dim = self.dim
        sizes = {"float32": 4 * dim, "float16": 2 * dim, "int8": dim + 2, "binary": dim + 2 + 8 * _num_words(dim)}
        found: dict[str, int | float | str] = {
            "vectors": len(self._keys),
            "bytes_per_vector": float(sizes[self.store]),
            "store": self.store,
            "search": "bits" if self.store == "binary" else self.recipe or "exact",
        }
        return found if self._recall is None else {**found, "recall_estimate": self._recall}

    def save(self, folder: Path) -> None:
        """Writes block by block: memory stays bounded however large the segment is (but for a graph, which is built in memory)."""
        num_rows = len(self._keys)
        np.save(folder / "keys.npy", self._keys)
        self._save_vectors(folder)
        vectors, bits = _load_vectors(folder, self.store, num_rows, self.dim)
        graph = self.graph
        if self.recipe is not None:
            from rag.retrievers.dense_graph import write_graph

            graph = graph if graph is not None else self.build_graph(vectors)
            write_graph(graph, folder / "graph.faiss")
        if self._recall is None:
            self._recall = recall_estimate(_Part(vectors, bits, graph), self._effort)
        manifest: dict[str, int | float | str | None] = {
            "format": _FORMAT,
            "num_rows": num_rows,
            "dim": self.dim,
            "store": self.store,
        }
        manifest |= {"fingerprint": self.fingerprint, "graph": self.recipe, "recall_estimate": self._recall}
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")

    def _save_vectors(self, folder: Path) -> None:
        shape, path = (len(self._keys), self.dim), folder / "vectors.npy"
        blocks = _blocks(self.vectors, shape[0])
        if self.store in ("float32", "float16"):
            _save_rows(path, np.dtype(self.store), shape, blocks)
            return
        scales = np.empty(shape[0], np.float16)
        _save_rows(path, np.dtype(np.int8), shape, _codes(blocks, scales))
        np.save(folder / "scales.npy", scales)
        if self.store == "binary":
            codes = _load_array(path, np.dtype(np.int8), shape)
            signs = (to_bits(codes[start : start + _BLOCK_ROWS] > 0) for start in range(0, shape[0], _BLOCK_ROWS))
            _save_rows(folder / "bits.npy", np.dtype(np.uint64), (shape[0], _num_words(self.dim)), signs)

    def build_graph(self, vectors: Vectors | None = None) -> Any:
        """The graph that ``recipe`` asks for."""
        from rag.retrievers.dense_graph import build_graph, num_sample_rows

        assert self.recipe is not None
        vectors = self.vectors if vectors is None else vectors
        num_rows = len(self._keys)
        # Evenly spread rows: the same graph for the same rows, whoever builds it.
        sample = np.linspace(0, num_rows - 1, num_sample_rows(self.recipe, num_rows)).astype(np.int64)
        return build_graph(self.recipe, self.dim, vectors[sample].astype(np.float32), _blocks(vectors, num_rows))


class _Part:
    """What ``recall_estimate`` searches: the files just written."""

    def __init__(self, vectors: Vectors, bits: Words | None, graph: Any) -> None:
        self.vectors = vectors
        self.bits = bits
        self.graph = graph


def load_segment(folder: Path, fingerprint: str, effort: Effort) -> DenseSegment:
    """Opens what ``save`` wrote; vectors and graph stay on disk until they are read.

    Raises ``DamagedIndex`` if a file is missing, cut short or does not fit the others, and ``IndexMismatch`` if the segment
    was made by another encoder or by a newer format.
    """
    manifest = _read_manifest(folder)
    if manifest["fingerprint"] != fingerprint:
        raise IndexMismatch(f"{folder} holds vectors of another encoder; restore its settings or ingest anew")
    num_rows, dim, store, recipe = (manifest[name] for name in ("num_rows", "dim", "store", "graph"))
    keys = _load_array(folder / "keys.npy", np.dtype(np.int64), (num_rows,))
    vectors, bits = _load_vectors(folder, store, num_rows, dim)
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
    recall = manifest.get("recall_estimate")
    return DenseSegment(keys, vectors, fingerprint, store, recipe, effort, bits=bits, graph=graph, recall=recall)


def _load_vectors(folder: Path, store: Store, num_rows: int, dim: int) -> tuple[Vectors, Words | None]:
    path, shape = folder / "vectors.npy", (num_rows, dim)
    if store in ("float32", "float16"):
        return _load_array(path, np.dtype(store), shape), None
    codes = _load_array(path, np.dtype(np.int8), shape)
    rows = Int8Rows(codes, _load_array(folder / "scales.npy", np.dtype(np.float16), (num_rows,)))
    if store == "int8":
        return rows, None
    return rows, _load_array(folder / "bits.npy", np.dtype(np.uint64), (num_rows, _num_words(dim)))


def _num_words(dim: int) -> int:
    return -(-dim // 64)


def _codes(blocks: Iterable[NDArray[np.float32]], scales: NDArray[np.float16]) -> Iterator[NDArray[np.int8]]:
    """The codes of each block; the scales go into ``scales``."""
    start = 0
    for block in blocks:
        rows = to_int8(block)
        scales[start : start + len(block)] = rows.scales
        start += len(block)
        yield rows.codes


def _save_rows(path: Path, dtype: np.dtype[Any], shape: tuple[int, int], blocks: Iterable[NDArray[Any]]) -> None:
    with path.open("wb") as file:  # not through a map: every page written there would count as resident until the end
        write_array_header_1_0(file, {"descr": dtype_to_descr(dtype), "fortran_order": False, "shape": shape})
        for block in blocks:
            file.write(np.ascontiguousarray(block, dtype).data)


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
    if manifest["store"] not in get_args(Store) or manifest["num_rows"] < 0 or manifest["dim"] < 1:
        raise DamagedIndex(path, "its numbers make no sense")
    if not isinstance(manifest.get("recall_estimate", 1.0), float):
        raise DamagedIndex(path, "'recall_estimate' is of the wrong type")
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
