"""Token vectors of many documents in files: plain ones, or codes. Knows the layout on disk; knows no search and no training.

keys            int64 (documents,)            ascending
token_starts    int64 (documents + 1,)        tokens of document i: from token_starts[i] to token_starts[i + 1]
vectors         float16 (tokens, encoder dim) plain segments, and coded ones that score their best again exactly
run_starts      int64 (documents + 1,)        coded segments only, here and below: a run is one document's tokens of one centroid,
runs            uint16 (runs,)                its centroid,
run_lengths     uint8 (runs,)                 and how many tokens it has (longer runs are several)
codes           uint8 (tokens, row bytes)     see ``rag.kernels.warp_score_codes.unpacked``
scales          uint8 (tokens,)
list_starts     int64 (centroids + 1,)        the same runs by centroid, only where there are many:
list_rows       int32 (runs,)                 documents, ascending inside a list
basis, levels, steps, cells, cell_starts      the codec (see ``codec`` and ``centroids``)
manifest.json   format, fingerprint, dtype and shape of every array, numbers of the codec, facts
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rag.core import Facts
from rag.errors import DamagedIndex, IndexMismatch
from rag.kernels.warp_score_codes import Coded, row_bytes
from rag.retrievers.warp.arrays import Arrays, FileSink, MemorySink, Sink, as_tensor, map_arrays
from rag.retrievers.warp.centroids import Centroids
from rag.retrievers.warp.codec import Codec
from rag.retrievers.warp.probing import lists_of

if TYPE_CHECKING:
    import torch

_FORMAT = 2
_PLAIN = ("keys", "token_starts")
_CODED = (
    "run_starts",
    "runs",
    "run_lengths",
    "codes",
    "scales",
    "basis",
    "levels",
    "steps",
    "cells",
    "cell_starts",
)


class Tokens(NamedTuple):
    """The arrays of the coded tokens of all documents; see ``rag.kernels.warp_score_codes.Coded``."""

    token_starts: NDArray[np.int64]
    run_starts: NDArray[np.int64]
    runs: NDArray[np.uint16]
    run_lengths: NDArray[np.uint8]
    codes: NDArray[np.uint8]
    scales: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Header:
    """What a segment is besides its arrays. ``scale_unit`` to ``trained_residual`` are the codec's; 0 in plain segments.

    ``mean_residual``: mean residual norm of the segment's own tokens, which has drifted from ``trained_residual``.
    """

    dim: int
    bits: int = 0
    scale_unit: float = 0.0
    num_trained_tokens: int = 0
    trained_residual: float = 0.0
    mean_residual: float = 0.0
    recall_estimate: float = 1.0


Recipe = Callable[[Sink], Header]
"""Writes all arrays but the keys."""
Judge = Callable[["WarpSegment"], float]
"""Recall of a segment that was just coded."""


class WarpSegment:
    """Documents by ascending key. Made from a recipe, it is built when it is first saved or searched."""

    def __init__(
        self,
        keys: NDArray[np.int64],
        fingerprint: str,
        recipe: Recipe | None,
        arrays: Arrays,
        header: Header | None,
        judge: Judge | None = None,
    ) -> None:
        self._keys = keys
        self.fingerprint = fingerprint
        self._recipe = recipe
        self._judge = judge
        self._arrays = arrays
        self._header = header
        self._on: dict[torch.device, Coded] = {}

    @classmethod
    def planned(cls, keys: NDArray[np.int64], fingerprint: str, recipe: Recipe, judge: Judge | None = None) -> WarpSegment:
        """A segment that ``recipe`` will build and ``judge`` measure."""
        return cls(keys, fingerprint, recipe, {}, None, judge)

    @property
    def keys(self) -> NDArray[np.int64]:
        return self._keys

    @property
    def header(self) -> Header:
        self._build()
        assert self._header is not None
        return self._header

    @property
    def token_starts(self) -> NDArray[np.int64]:
        return self._array("token_starts")

    @property
    def num_tokens(self) -> int:
        return int(self.token_starts[-1])

    @property
    def vectors(self) -> NDArray[np.float16] | None:
        """``(tokens, encoder dim)``; ``None`` if only codes were kept."""
        self._build()
        return self._arrays.get("vectors")

    @cached_property
    def codec(self) -> Codec | None:
        """``None`` in a plain segment."""
        if not self.header.bits:
            return None
        header = self.header
        parts = Centroids(*(self._array(name) for name in ("levels", "steps", "cells", "cell_starts")))
        return Codec(
            self._array("basis"), parts, header.bits, header.scale_unit, header.num_trained_tokens, header.trained_residual
        )

    @cached_property
    def tokens(self) -> Tokens:
        """The codes. Only of a coded segment."""
        return Tokens(*(self._array(name) for name in ("token_starts", "run_starts", "runs", "run_lengths", "codes", "scales")))

    def coded(self, device: torch.device) -> Coded:
        """The codes as tensors on a device: in memory the files themselves, on a GPU a copy that is kept. Only of a coded segment."""
        if device not in self._on:
            codec = self.codec
            assert codec is not None
            arrays = {name: as_tensor(array) for name, array in self.tokens._asdict().items()}
            whole = Coded(**arrays, scale_unit=codec.scale_unit, bits=codec.bits, dim=codec.basis.shape[1])
            self._on[device] = whole.to(device)
        return self._on[device]

    @cached_property
    def lists(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """``list_starts`` and ``list_rows``, made now if they are not stored. Only of a coded segment."""
        if "list_rows" in self._arrays:
            return self._array("list_starts"), self._array("list_rows")
        assert self.codec is not None
        return lists_of(self.tokens.runs, self.tokens.run_starts, len(self.codec.centroids.levels))

    def _array(self, name: str) -> NDArray[Any]:
        self._build()
        return self._arrays[name]

    def _build(self, sink: Sink | None = None) -> None:
        if self._recipe is None:
            return
        sink = MemorySink() if sink is None else sink
        self._header = self._recipe(sink)
        self._arrays, self._recipe = sink.finish(), None
        if self._judge is not None and len(self._keys):
            self._header = replace(self._header, recall_estimate=self._judge(self))
        self._judge = None

    def originals(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The token vectors of ``rows`` as the encoder gave them, or as near as the codes come; ``(tokens, encoder dim)``."""
        if self.vectors is not None:
            return take(self.vectors, self.token_starts, rows).astype(np.float32)
        assert self.codec is not None
        return self.codec.turn_back(self.decoded(rows))

    def decoded(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """What the codes of ``rows`` stand for, in the codec's space, ``(tokens, codec dim)``. Only of a coded segment."""
        assert self.codec is not None
        tokens = self.tokens
        runs, lengths = (take(array, tokens.run_starts, rows) for array in (tokens.runs, tokens.run_lengths))
        codes, scales = (take(array, tokens.token_starts, rows) for array in (tokens.codes, tokens.scales))
        return self.codec.decode(np.repeat(runs, lengths), codes, scales)

    def facts(self) -> Facts:
        """``drift``: mean residual norm over that of the vectors on which the codec was trained."""
        header = self.header
        told: dict[str, int | float | str] = {"vectors": self.num_tokens, "bits": f"{header.bits}" if header.bits else "plain"}
        drift = header.mean_residual / header.trained_residual if header.trained_residual else 1.0
        return told | {"drift": round(drift, 4), "recall_estimate": header.recall_estimate}

    def save(self, folder: Path) -> None:
        """Writes block by block: memory does not grow with the segment."""
        with FileSink(folder) as sink:
            sink.add("keys", self._keys)
            if self._recipe is not None:
                self._build(sink)
            else:
                for name, array in self._arrays.items():
                    if name != "keys":
                        sink.add(name, array)
        header = self.header
        shapes = {name: [array.dtype.str, list(array.shape)] for name, array in {**self._arrays, "keys": self._keys}.items()}
        manifest = {"format": _FORMAT, "fingerprint": self.fingerprint, "arrays": shapes}
        manifest["header"] = {name: getattr(header, name) for name in Header.__dataclass_fields__}
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def take(array: NDArray[Any], starts: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[Any]:
    """``array[starts[row]:starts[row + 1]]`` of each of ``rows`` (not empty), one behind the other."""
    if rows[-1] - rows[0] == len(rows) - 1 and np.all(np.diff(rows) == 1):
        return array[starts[rows[0]] : starts[rows[-1] + 1]]
    return array[places(starts, rows)]


def places(starts: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers from ``starts[row]`` to ``starts[row + 1]`` of each of ``rows``."""
    lengths = starts[rows + 1] - starts[rows]
    borders = np.concatenate([[0], np.cumsum(lengths)])
    found: NDArray[np.int64] = np.repeat(starts[rows] - borders[:-1], lengths) + np.arange(borders[-1])
    return found


def load_segment(folder: Path, fingerprint: str) -> WarpSegment:
    """Opens what ``save`` wrote; nothing is read before it is needed.

    Raises ``DamagedIndex`` if a file is missing, cut short or does not fit the others, and ``IndexMismatch`` if the segment was made
    by another encoder or has another format.
    """
    path = folder / "manifest.json"
    manifest = _read_manifest(path)
    if manifest["fingerprint"] != fingerprint:
        raise IndexMismatch(f"{folder} holds vectors of another token encoder; restore its settings or ingest anew")
    try:
        header = Header(**manifest["header"])
        shapes = {str(name): (str(dtype), tuple(int(n) for n in shape)) for name, (dtype, shape) in manifest["arrays"].items()}
        for name in _PLAIN + (_CODED if header.bits else ("vectors",)):
            _ = shapes[name]
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedIndex(path, f"its contents make no sense: {error}") from error
    arrays = map_arrays(folder, shapes)
    _check(folder, arrays, header)
    return WarpSegment(arrays["keys"], fingerprint, None, arrays, header)


def _check(folder: Path, arrays: Arrays, header: Header) -> None:
    num_documents, num_tokens = len(arrays["keys"]), int(arrays["token_starts"][-1]) if len(arrays["token_starts"]) else 0
    wanted: dict[str, tuple[int, ...]] = {"token_starts": (num_documents + 1,)}
    if "vectors" in arrays:
        wanted["vectors"] = (num_tokens, header.dim)
    if header.bits:
        num_runs, num_centroids = len(arrays["runs"]), len(arrays["levels"])
        wanted |= {
            "run_starts": (num_documents + 1,),
            "run_lengths": (num_runs,),
            "scales": (num_tokens,),
        }
        wanted |= {"steps": (num_centroids,), "codes": (num_tokens, row_bytes(arrays["levels"].shape[1], header.bits))}
        if "list_rows" in arrays:
            wanted |= {"list_rows": (num_runs,), "list_starts": (num_centroids + 1,)}
    for name, shape in wanted.items():
        if arrays[name].shape != shape:
            raise DamagedIndex(folder / f"{name}.bin", f"it holds {arrays[name].shape}, the other files say {shape}")
    if num_documents > 1 and not np.all(arrays["keys"][1:] > arrays["keys"][:-1]):
        raise DamagedIndex(folder / "keys.bin", "the keys do not ascend")
    if np.any(np.diff(arrays["token_starts"]) < 1):
        raise DamagedIndex(folder / "token_starts.bin", "a document has no token")
    # What a search would read past an array with: two numbers are enough, the files' checksums are in the catalog.
    ends = [int(arrays[name][-1]) for name in ("run_starts", "list_starts") if name in arrays]
    if header.bits and any(end != num_runs for end in ends):
        raise DamagedIndex(folder / "run_starts.bin", "the runs do not fit together")


def _read_manifest(path: Path) -> Mapping[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DamagedIndex(path, f"it cannot be read: {error}") from error
    if not isinstance(manifest, dict):
        raise DamagedIndex(path, "it is not a JSON object")
    if isinstance(manifest.get("format"), int) and manifest["format"] != _FORMAT:
        raise IndexMismatch(
            f"{path} has format {manifest['format']}; this version reads format {_FORMAT}: `rag index rebuild` makes it from the catalog"
        )
    for name, kind in {"format": int, "fingerprint": str, "arrays": dict, "header": dict}.items():
        if not isinstance(manifest.get(name), kind):
            raise DamagedIndex(path, f"{name!r} is missing or of the wrong type")
    return manifest
