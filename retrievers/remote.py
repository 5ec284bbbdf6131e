"""Dense vectors on a server instead of in files. Knows keys, segments and what a server must be able to do; knows no server and no model.

Files in a segment's folder: ``keys.npy`` int64 (rows,), ascending, and ``manifest.json`` {"format": 1, "num_rows", "dim", "fingerprint",
"vectors_sha256"}. The vectors lie on the server under the name of the folder, which is never used again:

- The folder is there before the first vector is sent, and what no commit names is never asked for: vectors of a writer that died
  are in no result, and the next writer takes them back (``discard``) before it removes the folder.
- The manifest goes before the vectors do, so a reader of an older commit can tell that it was left behind.
- Filters, permissions and deletions are sent with the question, as keys: one source of truth, the catalog, for every index.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rag.core import Facts, Matches
from rag.errors import DamagedIndex, IndexMismatch, ServerError
from rag.retrievers.dense_search import Vectors

_FORMAT = 1
_BLOCK_ROWS = 512
_BLOCK_NUMBERS = 1 << 19  # some 10 MB as JSON: servers refuse large requests (Qdrant: above 32 MB)

Keys = NDArray[np.int64]
Floats = NDArray[np.float32]


class Selection(NamedTuple):
    """Which vectors may be found: those of ``segments`` whose key is in ``only`` (``None``: any) and not in ``without``."""

    segments: Sequence[str]
    only: Keys | None
    without: Keys | None


class VectorServer(Protocol):
    """Vectors by segment and key. Safe to use from several threads. Every method raises ``ServerError`` if the server does not do it."""

    def create(self, dim: int) -> None:
        """Makes the place for vectors of ``dim`` numbers, if it is not there. Raises ``ConfigError`` if it is there for others."""

    def put(self, segment: str, keys: Keys, vectors: Floats) -> None:
        """Stores rows of ``vectors`` ``(rows, dim)`` under ``keys``; when it returns the server has promised to keep them."""

    def count(self, segment: str) -> int:
        """How many vectors the segment has; none if nothing was ever stored."""

    def fetch(self, segment: str, keys: Keys) -> dict[int, Floats]:
        """Key -> vector ``(dim,)`` of those ``keys`` that are there."""

    def nearest(self, queries: Floats, k: int, selection: Selection) -> list[Matches]:
        """At most ``k`` matches by inner product for each of ``queries`` ``(queries, dim)``; the selection comes before the top k."""

    def drop(self, segment: str) -> None:
        """Removes the segment's vectors, if there are any."""


class ServerRows:
    """The vectors of one segment as rows that are fetched when they are read: a ``Vectors``."""

    def __init__(self, server: VectorServer, folder: Path, keys: Keys, dim: int) -> None:
        self.server = server
        self.folder = folder
        self._keys = keys
        self._dim = dim

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self._keys), self._dim)

    @property
    def name(self) -> str:
        """What the server calls the segment."""
        return self.folder.name

    def __getitem__(self, rows: slice | Keys, /) -> Floats:
        """Raises ``DamagedIndex`` if the server lacks one of them."""
        keys = self._keys[rows]
        found = self.server.fetch(self.name, keys)
        missing = [key for key in keys.tolist() if key not in found]
        if missing:
            raise DamagedIndex(self.folder, f"the server lacks the vectors of {len(missing)} chunks")
        return np.stack([found[key] for key in keys.tolist()]) if len(keys) else np.empty((0, self._dim), np.float32)


class RemoteSegment:
    """Vectors by ascending key: in memory (or in other segments) until it is saved, on the server from then on."""

    def __init__(self, keys: Keys, vectors: Vectors, fingerprint: str, server: VectorServer) -> None:
        self._keys = keys
        self.vectors = vectors
        self.fingerprint = fingerprint
        self._server = server

    @property
    def keys(self) -> Keys:
        return self._keys

    def facts(self) -> Facts:
        num_rows, dim = self.vectors.shape
        return {"vectors": num_rows, "bytes_per_vector": 4.0 * dim}

    def save(self, folder: Path) -> None:
        """Sends the vectors block by block and writes what they must be. Raises ``ServerError``, ``ConfigError``."""
        np.save(folder / "keys.npy", self._keys)
        num_rows, dim = self.vectors.shape
        state = hashlib.sha256()
        if num_rows:
            self._server.create(dim)
        for keys, block in blocks(self._keys, self.vectors):
            state.update(block.tobytes())
            self._server.put(folder.name, keys, block)
        manifest = {"format": _FORMAT, "num_rows": num_rows, "dim": dim, "fingerprint": self.fingerprint}
        manifest |= {"vectors_sha256": state.hexdigest()}
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        self.vectors = ServerRows(self._server, folder, self._keys, dim)

    def check_in_place(self) -> None:
        """Raises ``DamagedIndex`` if a newer commit has taken the segment away, which empties results without a word."""
        if isinstance(self.vectors, ServerRows) and not (self.vectors.folder / "manifest.json").exists():
            raise DamagedIndex(self.vectors.folder, "was removed while it was searched")


def blocks(keys: Keys, vectors: Vectors) -> Iterator[tuple[Keys, Floats]]:
    """Keys and float32 rows, some at a time."""
    num_rows = min(_BLOCK_ROWS, max(1, _BLOCK_NUMBERS // max(1, vectors.shape[1])))
    for start in range(0, len(keys), num_rows):
        rows = slice(start, start + num_rows)
        yield keys[rows], np.ascontiguousarray(vectors[rows], np.float32)


def load_segment(folder: Path, fingerprint: str, server: VectorServer) -> RemoteSegment:
    """Opens what ``save`` wrote. Raises ``DamagedIndex`` if files or vectors are missing, ``IndexMismatch`` if another encoder made
    them, ``ServerError`` if the server does not say."""
    manifest = _manifest(folder)
    if manifest["fingerprint"] != fingerprint:
        raise IndexMismatch(f"{folder} tells of vectors of another encoder; restore its settings or ingest anew")
    path = folder / "keys.npy"
    try:
        keys = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DamagedIndex(path, f"it cannot be read: {error}") from error
    if keys.dtype != np.int64 or keys.shape != (manifest["num_rows"],) or np.any(keys[1:] <= keys[:-1]):
        raise DamagedIndex(path, f"it does not hold {manifest['num_rows']} ascending keys")
    num_there = server.count(folder.name) if len(keys) else 0
    if num_there != len(keys):
        raise DamagedIndex(folder, f"the server holds {num_there} of its {len(keys)} vectors")
    return RemoteSegment(keys, ServerRows(server, folder, keys, manifest["dim"]), fingerprint, server)


def check_vectors(folder: Path, segment: RemoteSegment) -> None:
    """Fetches every vector. Raises ``DamagedIndex`` unless they are those that were saved."""
    state = hashlib.sha256()
    for _, block in blocks(segment.keys, segment.vectors):
        state.update(block.tobytes())
    if state.hexdigest() != _manifest(folder)["vectors_sha256"]:
        raise DamagedIndex(folder, "the server's vectors have changed (SHA-256 differs)")


def discard(folder: Path, server: VectorServer) -> None:
    """Takes the vectors back; the manifest goes first, see above."""
    (folder / "manifest.json").unlink(missing_ok=True)
    server.drop(folder.name)


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DamagedIndex(path, f"it cannot be read: {error}") from error
    if isinstance(manifest, dict) and isinstance(manifest.get("format"), int) and manifest["format"] > _FORMAT:
        raise IndexMismatch(f"{path} has format {manifest['format']}; this version reads up to {_FORMAT}")
    for name, kind in {"format": int, "num_rows": int, "dim": int, "fingerprint": str, "vectors_sha256": str}.items():
        if not isinstance(manifest, dict) or not isinstance(manifest.get(name), kind):
            raise DamagedIndex(path, f"{name!r} is missing or of the wrong type")
    return manifest


def refused(what: str, error: Exception) -> ServerError:
    """The error for ``what`` (a server by a name without secrets), with the first line of what it or its client said."""
    said = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return ServerError(f"{what}: {said}")
